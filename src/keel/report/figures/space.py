"""Roles and traits in persona space, its spectrum, and their ranks along the Assistant Axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import torch

from keel.report.figures import theme
from keel.report.figures.labels import Canvas, position_labels
from keel.report.figures.theme import hover_box, plain
from keel.report.standings import RoleStanding
from keel.types import DEFAULT_ROLE, Interval, PersonaSpace
from keel.words import counted, fixed, percent

_CANVAS_PX = (770.0, 460.0)
"""Plotting area on the narrowest page: there, names must not touch."""
_SLIDER_PX = 130
"""Room for the axis' title and the slider."""
_STAR_PX = 10.0
_ROW_PX, _BELOW_PX = 19, 56
"""Height of a row of a ranking, and of the axis below it."""
_DEFAULT_NAME = "default: the Assistant"


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
    figure = theme.new_figure(
        int(_CANVAS_PX[1]) + above + _SLIDER_PX, margin={"t": above, "b": _SLIDER_PX}
    )
    views = [_view_layer(space, at, ends) for at in range(space.coordinates_LRK.shape[0])]
    for index, (kind, rows) in enumerate(groups):
        roles = [space.roles[row] for row in rows]
        colour, symbol = theme.kind_style(index)
        figure.add_scatter(
            mode="markers+text",
            name=plain(kind),
            marker={"color": colour, "symbol": symbol, "size": 9, "opacity": 0.85},
            textfont={"size": theme.LABEL_PX, "color": theme.INK},
            hovertext=[hover_box(role, kind, quote=samples.get(role, "")) for role in roles],
            cliponaxis=False,
        )
    sample = samples.get(DEFAULT_ROLE, "")
    figure.add_scatter(
        mode="markers+text",
        name=_DEFAULT_NAME,
        marker={"color": theme.DEFAULT_COLOUR, "symbol": "star", "size": 2 * _STAR_PX},
        textfont={"size": theme.LABEL_PX + 1, "color": theme.DEFAULT_COLOUR, "weight": 700},
        hovertext=[hover_box(DEFAULT_ROLE, "the model when no role is set", quote=sample)],
        cliponaxis=False,
    )
    state = _trace_state(views[layer], groups)
    for at, trace in enumerate(figure.data):
        trace.update({name: values[at] for name, values in state.items()})
    figure.update_layout(_axis_state(views[layer]))
    if len(views) > 1:
        figure.update_layout(sliders=[_slider(views, groups, layer)])
    return figure


def draw_variance(space: PersonaSpace, layer: int, *, shares: Sequence[float]) -> go.Figure:
    """Each component's share of the variance as bars, their running sum as a line.

    A guide stands at each of the shares (0 to 1) with how many components reach it.
    """
    ratios = space.variance_ratio_LK[layer].float()
    numbers = list(range(1, len(ratios) + 1))
    figure = theme.new_figure(310, margin={"r": 150, "t": 40, "b": 52}, hovermode="x unified")
    figure.add_bar(
        x=numbers,
        y=theme.rounded((100 * ratios).tolist()),
        name="each component",
        marker_color="#B9D7EA",
        hoverinfo="all",
    )
    figure.add_trace(
        theme.line(
            numbers,
            (100 * torch.cumsum(ratios, 0)).tolist(),
            name="all up to here",
            mode="lines+markers",
            line={"color": theme.INK, "width": 1.5},
            marker={"size": 5},
            hoverinfo="all",
        )
    )
    for share in shares:
        components = space.components_for(share, layer)
        reached = "more than kept" if components is None else counted(components, "component")
        theme.mark_level(figure, 100 * share, f"{percent(share)}: {reached}")
    figure.update_xaxes(title_text="component", tickvals=theme.whole_ticks(len(numbers), first=1))
    figure.update_yaxes(title_text="share of variance (%)", range=[0, 104])
    return figure


def draw_ranks(
    standings: Sequence[RoleStanding], *, kinds: Mapping[str, str], samples: Mapping[str, str]
) -> go.Figure:
    """One row per role and one for the default, the most Assistant-like on top."""
    default_row = sum(standing.gaps < 1 for standing in standings)
    rows = [at if at < default_row else at + 1 for at in range(len(standings))]
    groups = _group([standing.role for standing in standings], kinds)
    above = theme.legend_px(len(groups) + 1)
    figure = theme.new_figure(
        _ROW_PX * (len(standings) + 2) + above + _BELOW_PX,
        margin={"l": 120, "t": above, "b": _BELOW_PX},
    )
    stems_x = [x for standing in standings for x in (0.0, standing.gaps, None)]
    stems_y = [y for row in rows for y in (row, row, None)]
    figure.add_trace(theme.line(stems_x, stems_y, line={"color": "#D5D9DE", "width": 2}))
    for index, (kind, members) in enumerate(groups):
        colour, symbol = theme.kind_style(index)
        figure.add_trace(
            theme.points(
                [standings[at].gaps for at in members],
                [rows[at] for at in members],
                [_describe_standing(standings[at], kind, samples) for at in members],
                name=plain(kind),
                marker={"color": colour, "symbol": symbol, "size": 10},
            )
        )
    sample = samples.get(DEFAULT_ROLE, "")
    figure.add_trace(
        theme.points(
            [1.0],
            [default_row],
            [hover_box(DEFAULT_ROLE, "1 gap unit, by definition", quote=sample)],
            name=_DEFAULT_NAME,
            marker={"color": theme.DEFAULT_COLOUR, "symbol": "star", "size": 15},
        )
    )
    figure.add_vline(x=0, line={"color": theme.FAINT, "width": 1})
    figure.add_vline(x=1, line={"color": theme.DEFAULT_COLOUR, "width": 1, "dash": "dash"})
    figure.update_xaxes(
        title_text="← role-playing    projection in gap units (0 role mean, 1 default mean)    "
        "Assistant →",
        range=theme.padded_range([0.0, 1.0, *(s.gaps for s in standings)], share=0.04),
    )
    default = f'<span style="color:{theme.DEFAULT_COLOUR}"><b>{DEFAULT_ROLE}</b></span>'
    theme.name_rows(
        figure,
        [*rows, default_row],
        [*(plain(standing.name) for standing in standings), default],
        range=[-0.8, len(standings) + 0.8],
        tickfont={"size": theme.LABEL_PX},
    )
    return figure


def _describe_standing(standing: RoleStanding, kind: str, samples: Mapping[str, str]) -> str:
    detail = f"{fixed(standing.gaps)} gap units, {counted(standing.count, 'rollout')}, {kind}"
    return hover_box(standing.name, detail, quote=samples.get(standing.role, ""))


def draw_leanings(
    cosines: Sequence[tuple[str, Interval]], *, samples: Mapping[str, str]
) -> go.Figure:
    """One row per trait with its cosine's interval, the most Assistant-ward on top, as given."""
    rows = list(range(len(cosines)))[::-1]
    figure = theme.new_figure(
        _ROW_PX * (len(cosines) + 1) + _BELOW_PX + 24, margin={"l": 140, "b": _BELOW_PX}
    )
    values = [cosine for _, cosine in cosines]
    colours = {True: theme.DEFAULT_COLOUR, False: theme.ROLES_COLOUR}
    texts = [hover_box(name, c.text(), quote=samples.get(name, "")) for name, c in cosines]
    figure.add_trace(
        theme.points(
            [cosine.value for cosine in values],
            rows,
            texts,
            marker={"size": 9, "color": [colours[cosine.value > 0] for cosine in values]},
            error_x=theme.error_bars(values, theme.PALE, thickness=1),
            showlegend=False,
        )
    )
    figure.add_vline(x=0, line={"color": theme.FAINT, "width": 1})
    ends = [end for cosine in values for end in (cosine.low, cosine.high)]
    figure.update_xaxes(
        title_text="← away from the Assistant    cosine with the axis    towards it →",
        range=theme.padded_range([0.0, *ends], share=0.04),
    )
    theme.name_rows(
        figure,
        rows,
        [plain(name) for name, _ in cosines],
        range=[-0.8, len(cosines) - 0.2],
        tickfont={"size": theme.LABEL_PX},
    )
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
    positions: list[str]
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
    positions = position_labels(
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
        positions=positions,
        names=names,
        x_title=f"← {ends[0]}    PC1 ({percent(float(ratio[0]))} of variance)    {ends[1]} →",
        y_title=f"PC2 ({percent(float(ratio[1]))} of variance)" if len(ratio) > 1 else "",
    )


def _group(roles: Sequence[str], kinds: Mapping[str, str]) -> list[tuple[str, list[int]]]:
    """Kinds in alphabetical order, each with the indices of its roles."""
    names = sorted({kinds.get(role, "role") for role in roles})
    return [
        (name, [i for i, role in enumerate(roles) if kinds.get(role, "role") == name])
        for name in names
    ]


def _trace_state(view: _View, groups: Sequence[tuple[str, list[int]]]) -> dict[str, Any]:
    """What changes in each trace from layer to layer."""
    parts = [rows for _, rows in groups] + [[len(view.names) - 1]]
    x, y = theme.rounded(view.x), theme.rounded(view.y)
    # A blank, not nothing: Plotly throws an empty text away and cannot bring it back at the next
    # layer.
    texts = [
        plain(name) if position else "\N{NO-BREAK SPACE}"
        for name, position in zip(view.names, view.positions, strict=True)
    ]
    return {
        "x": [[x[row] for row in rows] for rows in parts],
        "y": [[y[row] for row in rows] for rows in parts],
        "text": [[texts[row] for row in rows] for rows in parts],
        "textposition": [[view.positions[row] or "top center" for row in rows] for rows in parts],
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
        "bordercolor": theme.EDGE,
        "font": {"size": 10, "color": theme.FAINT},
    }
