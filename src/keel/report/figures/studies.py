"""A drift study: domains turn by turn."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from keel.report.figures import theme
from keel.report.figures.theme import hover_box
from keel.types import NEUTRAL_DOMAIN, DomainPath, DriftStudy

_COLUMNS = 2
_ROW_PX = 250


def draw_domains(study: DriftStudy) -> go.Figure:
    """A small plot per domain, a line with its band per arm, and the neutral arm's in grey."""
    with_history = [path for path in study.paths if path.reading == "with history"]
    domains = list(dict.fromkeys(path.domain for path in with_history))
    shown = [domain for domain in domains if domain != NEUTRAL_DOMAIN] or domains
    rows = -(-len(shown) // _COLUMNS)
    figure = make_subplots(
        rows=rows,
        cols=_COLUMNS,
        subplot_titles=shown,
        vertical_spacing=0.3 / rows if rows > 1 else 0,
        horizontal_spacing=0.08,
        shared_yaxes=True,
    )
    for index, domain in enumerate(shown):
        cell = {"row": index // _COLUMNS + 1, "col": index % _COLUMNS + 1}
        for path in with_history:
            if path.domain in (domain, NEUTRAL_DOMAIN):
                for trace in _traces(path, study):
                    trace.showlegend = bool(trace.name) and index == 0
                    figure.add_trace(trace, **cell)
        figure.update_xaxes(tickvals=theme.whole_ticks(study.turns, first=1), **cell)
    theme.dress(figure, _ROW_PX * rows + 110, margin={"t": 70, "b": 52})
    figure.update_annotations(font={"size": theme.FONT_PX + 1, "color": theme.INK})
    figure.update_xaxes(title_text="turn", row=rows)
    levels = [level.value for path in with_history for level in path.levels]
    figure.update_yaxes(range=theme.padded_range([0.0, 1.0, *levels], 0.2))
    figure.update_yaxes(title_text="level (gap units)", col=1)
    for level, colour in ((1.0, theme.DEFAULT_COLOUR), (0.0, theme.FAINT)):
        line = {"color": colour, "width": 1, "dash": "dot"}
        figure.add_hline(y=level, line=line, row="all", col="all")
    return figure


def _traces(path: DomainPath, study: DriftStudy) -> list[go.Scatter]:
    """A path's band and line."""
    index = study.arms.index(path.arm)
    is_neutral = path.domain == NEUTRAL_DOMAIN
    style: dict[str, Any] = theme.line_style(index)
    if is_neutral:
        style |= {"color": theme.ROLES_COLOUR, "dash": "dash" if index else "solid", "width": 1.4}
    turns = list(range(1, 1 + len(path.levels)))
    name = f"{path.arm}, {NEUTRAL_DOMAIN}" if is_neutral else path.arm
    line = theme.line(
        turns,
        [level.value for level in path.levels],
        name=name,
        legendgroup=name,
        line=style,
        hovertext=[
            hover_box(f"{path.domain}, turn {turn}", level.text(), f"{count} conversations")
            for turn, level, count in zip(turns, path.levels, path.counts, strict=True)
        ],
    )
    return [theme.band(turns, path.levels, style["color"], 0.1 if is_neutral else 0.18), line]
