"""Persona space: the roles and the default on the first two components, and the spectrum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import torch

from keel.report.figures import theme
from keel.report.figures.labels import Canvas, place_labels
from keel.report.figures.text import hover_box, plain
from keel.types import DEFAULT_ROLE, PersonaSpace
from keel.words import counted, percent

_CANVAS_PX = (770.0, 460.0)
"""Plotting area on the narrowest page: there, names must not touch."""
_BELOW_PX = 130
"""Room for the axis' title and the slider."""
_STAR_PX = 10.0


def draw_space(
    space: PersonaSpace,
    layer: int,
    *,
    kinds: Mapping[str, str],
    samples: Mapping[str, str],
    ends: tuple[str, str] = ("role-playing", "Assistant"),
) -> go.Figure:
    """Roles by kind and the default on PC1 and PC2, with a slider over the layers.

    `ends` says what lies to the left and to the right.
    """
    groups = _group(space.roles, kinds)
    above = theme.legend_px(len(groups) + 1)
    margin = {"l": 64, "r": 24, "t": above, "b": _BELOW_PX}
    figure = theme.blank_figure(int(_CANVAS_PX[1]) + above + _BELOW_PX, margin=margin)
    views = [_view_layer(space, at, ends) for at in range(space.coordinates_LRK.shape[0])]
    for place, (kind, rows) in enumerate(groups):
        figure.add_trace(_role_points(space, rows, kind=kind, place=place, samples=samples))
    figure.add_trace(_default_point(samples.get(DEFAULT_ROLE, "")))
    _show(figure, views[layer], groups)
    if len(views) > 1:
        figure.update_layout(sliders=[_slider(views, groups, layer)])
    return figure


def draw_variance(space: PersonaSpace, layer: int, *, shares: Sequence[float]) -> go.Figure:
    """Each component's share of the variance as bars, their running sum as a line.

    A guide stands at each of the shares (0 to 1) with how many components reach it.
    """
    ratios = space.variance_ratio_LK[layer].float()
    numbers = list(range(1, len(ratios) + 1))
    sums = torch.cumsum(ratios, 0)
    margin = {"l": 64, "r": 150, "t": 40, "b": 52}
    figure = theme.blank_figure(310, margin=margin, hovermode="x unified")
    figure.add_bar(x=numbers, y=_percentages(ratios), name="each component", marker_color="#B9D7EA")
    figure.add_scatter(
        x=numbers,
        y=_percentages(sums),
        name="all up to here",
        mode="lines+markers",
        line={"color": theme.INK, "width": 1.5},
        marker={"size": 5},
    )
    for share in shares:
        _mark_share(figure, share, space.components_for(share, layer))
    figure.update_xaxes(title_text="component", tickvals=theme.whole_ticks(len(numbers), first=1))
    figure.update_yaxes(title_text="share of variance (%)", range=[0, 104])
    return figure


@dataclass(frozen=True)
class _View:
    """What one layer's scatter shows."""

    layer: int
    x: list[float]
    """PC1 of the roles in their order, then of the default."""
    y: list[float]
    x_range: list[float]
    y_range: list[float]
    places: list[str]
    """Where each name is written; empty where there is no room."""
    names: tuple[str, ...]
    x_title: str
    y_title: str


def _view_layer(space: PersonaSpace, layer: int, ends: tuple[str, str]) -> _View:
    points_NK = torch.cat(
        [space.coordinates_LRK[layer], space.default_coordinates_LK[layer][None]]
    ).float()
    x = [float(value) for value in points_NK[:, 0]]
    # With two roles there is one component only: all points lie on a line.
    y = [float(v) for v in points_NK[:, 1]] if points_NK.shape[1] > 1 else [0.0] * len(x)
    x_range, y_range = theme.padded_range(x), theme.padded_range(y)
    # Blanks keep the name off the star's arms, which reach further than a dot.
    names = (*space.roles, f"\N{NO-BREAK SPACE}{DEFAULT_ROLE}\N{NO-BREAK SPACE}")
    places = place_labels(
        Canvas(*_CANVAS_PX, x_range, y_range),
        list(zip(x, y, strict=True)),
        names,
        first=[len(names) - 1],
    )
    ratio = space.variance_ratio_LK[layer]
    return _View(
        layer=layer,
        x=x,
        y=y,
        x_range=x_range,
        y_range=y_range,
        places=places,
        names=names,
        x_title=f"← {ends[0]}    PC1 ({percent(float(ratio[0]))} of variance)    {ends[1]} →",
        y_title=f"PC2 ({percent(float(ratio[1]))} of variance)" if len(ratio) > 1 else "",
    )


def _group(roles: Sequence[str], kinds: Mapping[str, str]) -> list[tuple[str, list[int]]]:
    """Kinds in alphabetical order, each with the places of its roles."""
    names = sorted({kinds.get(role, "role") for role in roles})
    return [
        (name, [i for i, role in enumerate(roles) if kinds.get(role, "role") == name])
        for name in names
    ]


def _role_points(
    space: PersonaSpace,
    rows: Sequence[int],
    *,
    kind: str,
    place: int,
    samples: Mapping[str, str],
) -> go.Scatter:
    colour, symbol = theme.kind_style(place)
    roles = [space.roles[row] for row in rows]
    return go.Scatter(
        mode="markers+text",
        name=plain(kind),
        marker={"color": colour, "symbol": symbol, "size": 9, "opacity": 0.85},
        textfont={"size": theme.LABEL_PX, "color": theme.INK},
        hoverinfo="text",
        hovertext=[hover_box(role, kind, quote=samples.get(role, "")) for role in roles],
        cliponaxis=False,
    )


def _default_point(sample: str) -> go.Scatter:
    return go.Scatter(
        mode="markers+text",
        name="default: the Assistant",
        marker={"color": theme.DEFAULT_COLOUR, "symbol": "star", "size": 2 * _STAR_PX},
        textfont={"size": theme.LABEL_PX + 1, "color": theme.DEFAULT_COLOUR, "weight": 700},
        hoverinfo="text",
        hovertext=[hover_box(DEFAULT_ROLE, "the model when no role is set", quote=sample)],
        cliponaxis=False,
    )


def _show(figure: go.Figure, view: _View, groups: Sequence[tuple[str, list[int]]]) -> None:
    state = _trace_state(view, groups)
    for place, trace in enumerate(figure.data):
        trace.update({name: values[place] for name, values in state.items()})
    figure.update_layout(_axis_state(view))


def _trace_state(view: _View, groups: Sequence[tuple[str, list[int]]]) -> dict[str, Any]:
    """What changes in each trace from layer to layer."""
    parts = [rows for _, rows in groups] + [[len(view.names) - 1]]
    x, y = theme.rounded(view.x), theme.rounded(view.y)
    # A blank, not nothing: Plotly throws an empty text away and cannot bring it back at the next
    # layer.
    texts = [
        plain(name) if place else "\N{NO-BREAK SPACE}"
        for name, place in zip(view.names, view.places, strict=True)
    ]
    return {
        "x": [[x[row] for row in rows] for rows in parts],
        "y": [[y[row] for row in rows] for rows in parts],
        "text": [[texts[row] for row in rows] for rows in parts],
        "textposition": [[view.places[row] or "top center" for row in rows] for rows in parts],
    }


def _axis_state(view: _View) -> dict[str, Any]:
    return {
        "xaxis.range": view.x_range,
        "yaxis.range": view.y_range,
        "xaxis.title.text": view.x_title,
        "yaxis.title.text": view.y_title,
    }


def _slider(
    views: Sequence[_View], groups: Sequence[tuple[str, list[int]]], layer: int
) -> dict[str, Any]:
    steps = [
        {
            "label": str(view.layer),
            "method": "update",
            "args": [_trace_state(view, groups), _axis_state(view)],
        }
        for view in views
    ]
    return {
        "active": layer,
        "steps": steps,
        "currentvalue": {"prefix": "layer ", "font": {"size": theme.FONT_PX}},
        "pad": {"t": 52, "b": 0},
        "ticklen": 3,
        "minorticklen": 0,
        "bgcolor": "#EEF0F2",
        "activebgcolor": theme.DEFAULT_COLOUR,
        "bordercolor": "#C9CDD3",
        "font": {"size": 10, "color": theme.FAINT},
    }


def _mark_share(figure: go.Figure, share: float, components: int | None) -> None:
    told = "more than kept" if components is None else counted(components, "component")
    figure.add_hline(
        y=100 * share,
        line={"color": theme.FAINT, "width": 1, "dash": "dot"},
        annotation={
            "text": f"{percent(share)}: {told}",
            "font": {"size": theme.LABEL_PX, "color": theme.FAINT},
            "x": 1.005,
            "xanchor": "left",
            "yanchor": "middle",
        },
    )


def _percentages(shares: torch.Tensor) -> list[float | None]:
    return theme.rounded(100 * float(share) for share in shares)
