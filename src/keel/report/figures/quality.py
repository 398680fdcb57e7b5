"""How good the axis is at each layer: six small panels over the same layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from keel.report.figures import theme
from keel.types import AssistantAxis, Interval, LayerQuality

_TITLES = (
    "AUC: default above role, held out",
    "d′: distance in standard deviations, held out",
    "|cos(axis, PC1)|",
    "Cosine of axes from two halves",
    "Length of the axis (raw units, log scale)",
    "Roles below the default (%)",
)
_GREEN, _PURPLE = "#009E73", "#A8588A"


def draw_quality(
    quality: Sequence[LayerQuality], axis: AssistantAxis, *, band: Sequence[int] = ()
) -> go.Figure:
    """The six measures per layer, the recommended layer marked, the floors' band shaded."""
    figure = make_subplots(
        rows=3, cols=2, subplot_titles=_TITLES, vertical_spacing=0.1, horizontal_spacing=0.1
    )
    layers = [entry.layer for entry in quality]
    _add_interval(figure, (1, 1), layers, [entry.auc for entry in quality])
    _add_interval(figure, (1, 2), layers, [entry.d_prime for entry in quality])
    _add_interval(figure, (2, 1), layers, [entry.cos_pc1 for entry in quality])
    _add_null(figure, layers, quality)
    _add_halves(figure, layers, quality)
    _add_length(figure, layers, quality, axis)
    _add_percentile(figure, layers, quality)
    _dress(figure, layers)
    _mark_layers(figure, axis.layer, band)
    return figure


def _add_interval(
    figure: go.Figure, cell: tuple[int, int], layers: list[int], values: Sequence[Interval]
) -> None:
    """The measure as a line, its 95 % interval as a band."""
    low, high = ([getattr(value, end) for value in values] for end in ("low", "high"))
    figure.add_scatter(
        x=layers + layers[::-1],
        y=theme.rounded(high) + theme.rounded(low)[::-1],
        fill="toself",
        fillcolor="rgba(0,114,178,0.16)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        row=cell[0],
        col=cell[1],
    )
    hover = [
        f"layer {at}: {v.value:.3g} ({v.low:.3g} to {v.high:.3g})"
        for at, v in zip(layers, values, strict=True)
    ]
    _add_line(
        figure, cell, layers, [v.value for v in values], colour=theme.DEFAULT_COLOUR, hover=hover
    )


def _add_line(
    figure: go.Figure,
    cell: tuple[int, int],
    layers: Sequence[int],
    values: Sequence[float],
    *,
    colour: str,
    name: str = "",
    dash: str = "solid",
    legend: str = "legend",
    hover: Sequence[str] = (),
) -> None:
    figure.add_scatter(
        x=list(layers),
        y=theme.rounded(values),
        mode="lines",
        name=name,
        line={"color": colour, "width": 2, "dash": dash},
        hoverinfo="text",
        hovertext=list(hover)
        or [f"layer {at}: {value:.3g}" for at, value in zip(layers, values, strict=True)],
        showlegend=bool(name),
        legend=legend,
        row=cell[0],
        col=cell[1],
    )


def _add_null(figure: go.Figure, layers: list[int], quality: Sequence[LayerQuality]) -> None:
    null = [entry.cos_pc1_null for entry in quality]
    _add_line(
        figure,
        (2, 1),
        layers,
        null,
        colour=theme.FAINT,
        dash="dot",
        legend="legend2",
        name="95 % of shuffled labels lie below",
    )
    figure.update_layout(legend2=theme.legend_inside(figure, "3", (0.98, 0.03)))


def _add_halves(figure: go.Figure, layers: list[int], quality: Sequence[LayerQuality]) -> None:
    _add_line(
        figure,
        (2, 2),
        layers,
        [entry.split_half_questions for entry in quality],
        colour=_GREEN,
        name="questions",
        legend="legend3",
    )
    _add_line(
        figure,
        (2, 2),
        layers,
        [entry.split_half_roles for entry in quality],
        colour=_PURPLE,
        name="roles",
        dash="dash",
        legend="legend3",
    )
    figure.update_layout(legend3=theme.legend_inside(figure, "4", (0.98, 0.03)))


def _add_length(
    figure: go.Figure, layers: list[int], quality: Sequence[LayerQuality], axis: AssistantAxis
) -> None:
    lengths = [entry.axis_norm for entry in quality]
    hover = [_describe_length(entry, axis) for entry in quality]
    _add_line(figure, (3, 1), layers, lengths, colour=theme.DEFAULT_COLOUR, hover=hover)
    figure.update_yaxes(**theme.log_axis(lengths), row=3, col=1)


def _describe_length(entry: LayerQuality, axis: AssistantAxis) -> str:
    norm = float(axis.residual_norm[entry.layer])
    share = f"<br>{100 * entry.axis_norm / norm:.1f} % of the residual norm" if norm > 0 else ""
    dims = f"<br>ten largest dimensions: {100 * entry.top_dims_share:.0f} % of the square"
    return f"layer {entry.layer}: {entry.axis_norm:.3g}{share}{dims}"


def _add_percentile(figure: go.Figure, layers: list[int], quality: Sequence[LayerQuality]) -> None:
    shares = [100 * entry.default_percentile for entry in quality]
    _add_line(figure, (3, 2), layers, shares, colour=theme.DEFAULT_COLOUR)
    figure.update_yaxes(range=[-4, 104], row=3, col=2)


def _dress(figure: go.Figure, layers: list[int]) -> None:
    # The top margin leaves room for the row of buttons above the titles.
    theme.dress(figure, 800, margin={"l": 56, "r": 16, "t": 64, "b": 48})
    figure.update_xaxes(tickvals=theme.whole_ticks(len(layers)), zeroline=False)
    figure.update_xaxes(title_text="layer", row=3)
    figure.update_annotations(font={"size": theme.FONT_PX + 1, "color": theme.INK})
    for cell in ((2, 1), (2, 2)):
        figure.update_yaxes(range=[_low_end(figure, cell), 1.03], row=cell[0], col=cell[1])


def _low_end(figure: go.Figure, cell: tuple[int, int]) -> float:
    """0, or lower where a cosine is negative."""
    traces = figure.select_traces(row=cell[0], col=cell[1])
    found = [float(y) for trace in traces for y in trace.y if y is not None]
    return min([0.0, *(y - 0.03 for y in found)])


def _mark_layers(figure: go.Figure, recommended: int, band: Sequence[int]) -> None:
    everywhere = {"row": "all", "col": "all"}
    if band:
        figure.add_vrect(
            x0=min(band) - 0.5,
            x1=max(band) + 0.5,
            fillcolor=theme.FLOOR_COLOUR,
            opacity=0.1,
            line_width=0,
            layer="below",
            **everywhere,
        )
    mark: Callable[..., None] = figure.add_vline
    mark(x=recommended, line={"color": theme.INK, "width": 1, "dash": "dash"}, **everywhere)
