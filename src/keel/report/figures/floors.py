"""Where floors lie among the projections, and how often they move a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from keel.report.figures import theme
from keel.types import LayerCalibration, PricedSetting

SELDOM, ALWAYS = 0.15, 0.80
"""Firing rates under which a floor hardly acts, and over which it pushes rather than caps."""
_ROW_PX = 190


def draw_histograms(layers: Sequence[LayerCalibration], floors: Mapping[int, float]) -> go.Figure:
    """One panel per layer: per-token projections of default and roles, and the floor."""
    columns = _columns(len(layers))
    rows = -(-len(layers) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[f"layer {layer.layer}" for layer in layers],
        x_title="projection (raw units)",
        vertical_spacing=0.34 / rows if rows > 1 else 0,
        horizontal_spacing=0.05,
    )
    for place, layer in enumerate(layers):
        cell = (place // columns + 1, place % columns + 1)
        _add_panel(figure, cell, layer, floors[layer.layer], is_first=place == 0)
    theme.dress(figure, _ROW_PX * rows + 130, margin={"l": 56, "r": 16, "t": 68, "b": 52})
    figure.update_layout(legend_y=1 + 34 / (_ROW_PX * rows))
    figure.update_annotations(font={"size": theme.FONT_PX, "color": theme.INK})
    figure.update_yaxes(rangemode="tozero", nticks=5, showline=False)
    figure.update_yaxes(title_text="tokens (%)", col=1)
    return figure


def _columns(panels: int) -> int:
    """Panels side by side: as few empty places as can be."""
    return panels if panels < 4 else min((4, 5, 3), key=lambda columns: -panels % columns)


def draw_firing(setting: PricedSetting) -> go.Figure:
    """Share of tokens that each floor of a setting moves, nominal beside realised."""
    layers = sorted(set(setting.nominal_firing) | set(setting.realised_firing))
    margin = {"l": 64, "r": 170, "t": 40, "b": 52}
    figure = theme.blank_figure(340, margin=margin, barmode="group", bargap=0.35, bargroupgap=0.08)
    _add_bars(
        figure, layers, setting.nominal_firing, name="nominal: this floor alone", colour="#BFC4CB"
    )
    _add_bars(
        figure,
        layers,
        setting.realised_firing,
        name="realised: the whole band at once",
        colour=theme.FLOOR_COLOUR,
    )
    _add_guide(figure, SELDOM, "under 15 %: hardly acts")
    _add_guide(figure, ALWAYS, "over 80 %: constant push")
    figure.update_xaxes(title_text="layer", type="category")
    figure.update_yaxes(title_text="tokens moved (%)", range=[0, 100])
    return figure


def _add_panel(
    figure: go.Figure,
    cell: tuple[int, int],
    layer: LayerCalibration,
    floor: float,
    *,
    is_first: bool,
) -> None:
    for name, shares, colour, fill in (
        ("role tokens", layer.role_share, theme.ROLES_COLOUR, "rgba(138,143,152,0.28)"),
        ("default tokens", layer.default_share, theme.DEFAULT_COLOUR, "rgba(0,114,178,0.22)"),
    ):
        trace = _steps(layer.bin_edges, shares, name=name, colour=colour, fill=fill)
        figure.add_trace(trace.update(showlegend=is_first), row=cell[0], col=cell[1])
    top = 100 * max([*layer.default_share, *layer.role_share], default=0.0)
    figure.add_scatter(
        x=theme.rounded([floor, floor]),
        y=theme.rounded([0.0, 1.05 * top]),
        mode="lines",
        name="floor",
        line={"color": theme.FLOOR_COLOUR, "width": 2},
        hoverinfo="text",
        hovertext=f"floor {floor:.4g}",
        legendgroup="floor",
        showlegend=is_first,
        row=cell[0],
        col=cell[1],
    )


def _steps(
    edges: Sequence[float], shares: Sequence[float], *, name: str, colour: str, fill: str
) -> go.Scatter:
    """A histogram as the outline of its bars."""
    heights = [0.0, *(100 * share for share in shares), 0.0]
    return go.Scatter(
        x=theme.rounded([edges[0], *edges]),
        y=theme.rounded(heights),
        mode="lines",
        name=name,
        line={"color": colour, "width": 1.2, "shape": "hv"},
        fill="tozeroy",
        fillcolor=fill,
        hoverinfo="x+y+name",
        legendgroup=name,
    )


def _add_bars(
    figure: go.Figure, layers: Sequence[int], firing: Mapping[int, float], *, name: str, colour: str
) -> None:
    shares = [firing.get(layer, 0.0) for layer in layers]
    figure.add_bar(
        x=[str(layer) for layer in layers],
        y=theme.rounded(100 * share for share in shares),
        name=name,
        marker_color=colour,
        hoverinfo="text",
        hovertext=[f"layer {at}: {100 * s:.1f} %" for at, s in zip(layers, shares, strict=True)],
    )


def _add_guide(figure: go.Figure, share: float, told: str) -> None:
    figure.add_hline(
        y=100 * share,
        line={"color": theme.FAINT, "width": 1, "dash": "dot"},
        annotation={
            "text": told,
            "font": {"size": theme.LABEL_PX, "color": theme.FAINT},
            "x": 1.005,
            "xanchor": "left",
            "yanchor": "middle",
        },
    )
