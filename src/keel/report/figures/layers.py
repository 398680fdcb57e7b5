"""Measures over the layers: how good the axis is, and how alike two runs are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from keel.report.figures import theme
from keel.report.figures.theme import plain
from keel.types import AssistantAxis, Interval, LayerQuality, Shift
from keel.words import number

_QUALITY_TITLES = (
    "AUC: default above role, held out",
    "d′: distance in standard deviations, held out",
    "|cos(axis, PC1)|",
    "Cosine of axes from two halves",
    "Length of the axis (raw units, log scale)",
    "Roles below the default (%)",
)
_GREEN, _PURPLE = "#009E73", "#A8588A"
_BAND_OPACITY = 0.16
_ROW_PX = 18
_EVERYWHERE: dict[str, Any] = {"row": "all", "col": "all"}


def draw_quality(
    quality: Sequence[LayerQuality], axis: AssistantAxis, *, band: Sequence[int] = ()
) -> go.Figure:
    """The six measures per layer, the recommended layer marked, the floors' band shaded."""
    figure = make_subplots(
        rows=3, cols=2, subplot_titles=_QUALITY_TITLES, vertical_spacing=0.1, horizontal_spacing=0.1
    )
    for row, col, trace in _quality_traces(quality, axis):
        figure.add_trace(trace, row=row, col=col)
    # The top margin leaves room for the row of buttons above the titles.
    theme.dress(figure, 800, margin={"l": 56, "r": 16, "t": 64, "b": 48})
    for axis_number in (3, 4):
        legend = _legend_at_bottom_right(figure, axis_number)
        figure.update_layout({f"legend{axis_number - 1}": legend})
    figure.update_xaxes(tickvals=theme.whole_ticks(len(quality)))
    figure.update_xaxes(title_text="layer", row=3)
    figure.update_yaxes(**theme.log_axis(at.axis_norm for at in quality), row=3, col=1)
    figure.update_yaxes(range=[-4, 104], row=3, col=2)
    for col in (1, 2):
        drawn = (trace.y for trace in figure.select_traces(row=2, col=col))
        lowest = min([0.0, *(y - 0.03 for ys in drawn for y in ys if y is not None)])
        figure.update_yaxes(range=[lowest, 1.03], row=2, col=col)
    figure.update_annotations(font={"size": theme.FONT_PX + 1, "color": theme.INK})
    if band:
        figure.add_vrect(
            x0=min(band) - 0.5,
            x1=max(band) + 0.5,
            fillcolor=theme.FLOOR_COLOUR,
            opacity=0.1,
            line_width=0,
            layer="below",
            **_EVERYWHERE,
        )
    _mark_layer(figure, axis.layer, theme.INK, **_EVERYWHERE)
    return figure


def _quality_traces(
    quality: Sequence[LayerQuality], axis: AssistantAxis
) -> Iterator[tuple[int, int, go.Scatter]]:
    """Row and column of a panel, and what is drawn there."""
    layers = [at.layer for at in quality]
    for row, col, intervals in (
        (1, 1, [at.auc for at in quality]),
        (1, 2, [at.d_prime for at in quality]),
        (2, 1, [at.cos_pc1 for at in quality]),
    ):
        yield row, col, theme.band(layers, intervals, theme.DEFAULT_COLOUR, _BAND_OPACITY)
        texts = [interval.text(number) for interval in intervals]
        yield row, col, _curve(layers, [interval.value for interval in intervals], texts)
    null = [at.cos_pc1_null for at in quality]
    name = "95 % of shuffled labels lie below"
    yield 2, 1, _curve(layers, null, colour=theme.FAINT, dash="dot", name=name, legend="legend2")
    for name, cosines, colour, dash in (
        ("questions", [at.split_half_questions for at in quality], _GREEN, "solid"),
        ("roles", [at.split_half_roles for at in quality], _PURPLE, "dash"),
    ):
        yield 2, 2, _curve(layers, cosines, colour=colour, dash=dash, name=name, legend="legend3")
    texts = [_describe_length(at, axis) for at in quality]
    yield 3, 1, _curve(layers, [at.axis_norm for at in quality], texts)
    yield 3, 2, _curve(layers, [100 * at.default_percentile for at in quality])


def _curve(
    layers: Sequence[int],
    values: Sequence[float],
    texts: Sequence[str] = (),
    *,
    colour: str = theme.DEFAULT_COLOUR,
    dash: str = "solid",
    **trace: Any,
) -> go.Scatter:
    """A measure over the layers; hovering shows the layer and the text, or else the value."""
    shown = texts or [number(value) for value in values]
    return theme.line(
        layers,
        values,
        line={"color": colour, "width": 2, "dash": dash},
        hovertext=[f"layer {layer}: {text}" for layer, text in zip(layers, shown, strict=True)],
        **trace,
    )


def _describe_length(at: LayerQuality, axis: AssistantAxis) -> str:
    norm = float(axis.residual_norm[at.layer])
    share = f"<br>{100 * at.axis_norm / norm:.1f} % of the residual norm" if norm > 0 else ""
    dims = f"<br>ten largest dimensions: {100 * at.top_dims_share:.0f} % of the square"
    return f"{number(at.axis_norm)}{share}{dims}"


def _legend_at_bottom_right(figure: go.Figure, axis_number: int) -> dict[str, Any]:
    """A legend within the subplot of the axes of that number."""
    across = figure.layout[f"xaxis{axis_number}"].domain
    up = figure.layout[f"yaxis{axis_number}"].domain
    return {
        "x": across[0] + 0.98 * (across[1] - across[0]),
        "y": up[0] + 0.03 * (up[1] - up[0]),
        "xanchor": "right",
        "yanchor": "bottom",
        "bgcolor": "rgba(255,255,255,0.7)",
        "font": {"size": theme.LABEL_PX},
    }


def _mark_layer(figure: go.Figure, layer: int, colour: str, **cells: Any) -> None:
    figure.add_vline(x=layer, line={"color": colour, "width": 1, "dash": "dash"}, **cells)


def draw_components(parts: Mapping[str, Sequence[Interval]]) -> go.Figure:
    """Correlation of loadings on each component, with its interval; a group of bars per kind."""
    figure = theme.new_figure(320, barmode="group")
    for index, (name, correlations) in enumerate(parts.items()):
        colour, _ = theme.kind_style(index)
        figure.add_bar(
            x=[f"PC{component}" for component in range(1, len(correlations) + 1)],
            y=theme.rounded(correlation.value for correlation in correlations),
            error_y=theme.error_bars(correlations, theme.INK),
            name=plain(name),
            marker_color=colour,
            hoverinfo="all",
        )
    low = min([0.0, *(value.low for values in parts.values() for value in values)])
    figure.update_yaxes(title_text="correlation of loadings", range=[low * 1.05, 1.03])
    return figure


def draw_layers(curves: Mapping[str, Sequence[Interval]], layer: int) -> go.Figure:
    """Cosines at every layer with their intervals as bands, the layer read marked."""
    figure = theme.new_figure(360, hovermode="x unified")
    for index, (name, cosines) in enumerate(curves.items()):
        style = theme.line_style(index)
        layers = list(range(len(cosines)))
        figure.add_trace(theme.band(layers, cosines, style["color"], _BAND_OPACITY))
        values = [cosine.value for cosine in cosines]
        figure.add_trace(theme.line(layers, values, name=plain(name), line=style, hoverinfo="all"))
    count = max((len(cosines) for cosines in curves.values()), default=1)
    _mark_layer(figure, layer, theme.FAINT)
    figure.update_xaxes(title_text="layer", tickvals=theme.whole_ticks(count))
    figure.update_yaxes(title_text="cosine")
    return figure


def draw_shifts(shifts: Sequence[Shift]) -> go.Figure:
    """A bar per role or trait, the one the default went towards most on top."""
    rows = list(range(len(shifts)))[::-1]
    figure = theme.new_figure(_ROW_PX * len(shifts) + 90, margin={"l": 140})
    colours = {True: theme.DEFAULT_COLOUR, False: theme.ROLES_COLOUR}
    figure.add_bar(
        x=theme.rounded(shift.share for shift in shifts),
        y=rows,
        orientation="h",
        marker_color=[colours[shift.share > 0] for shift in shifts],
        hovertext=[f"{shift.share:+.3f}, cosine {shift.cosine:+.2f}" for shift in shifts],
        showlegend=False,
    )
    figure.add_vline(x=0, line={"color": theme.FAINT, "width": 1})
    figure.update_xaxes(title_text="← away    shift of the default    towards →")
    theme.name_rows(figure, rows, [plain(shift.name) for shift in shifts])
    return figure
