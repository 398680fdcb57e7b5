"""The figures of a report, one Plotly figure per `draw_*`. Knows nothing of pages."""
