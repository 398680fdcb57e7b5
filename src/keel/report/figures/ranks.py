"""Roles ranked along the Assistant Axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from keel.report.figures import theme
from keel.report.figures.text import hover_box, plain
from keel.report.standings import RoleStanding
from keel.types import DEFAULT_ROLE
from keel.words import counted, fixed

_ROW_PX = 19
_BELOW_PX = 56


def draw_ranks(
    standings: Sequence[RoleStanding], *, kinds: Mapping[str, str], samples: Mapping[str, str]
) -> go.Figure:
    """One row per role and one for the default, the most Assistant-like on top."""
    places = _rows(standings)
    names = sorted({kinds.get(standing.role, "role") for standing in standings})
    above = theme.legend_px(len(names) + 1)
    figure = theme.blank_figure(
        _ROW_PX * (len(standings) + 2) + above + _BELOW_PX,
        margin={"l": 120, "r": 24, "t": above, "b": _BELOW_PX},
    )
    figure.add_trace(_stems(standings, places))
    for place, kind in enumerate(names):
        members = [i for i, s in enumerate(standings) if kinds.get(s.role, "role") == kind]
        figure.add_trace(_dots(standings, members, places, kind=kind, place=place, samples=samples))
    figure.add_trace(_default_dot(places[-1], samples.get(DEFAULT_ROLE, "")))
    _dress_axes(figure, standings, places)
    return figure


def _rows(standings: Sequence[RoleStanding]) -> list[int]:
    """Row of each role, then of the default, counted from the bottom."""
    below = sum(standing.gaps < 1 for standing in standings)
    return [i if i < below else i + 1 for i in range(len(standings))] + [below]


def _stems(standings: Sequence[RoleStanding], places: Sequence[int]) -> go.Scatter:
    """Thin lines from the role mean to each role."""
    x: list[float | None] = []
    y: list[float | None] = []
    for standing, row in zip(standings, places, strict=False):
        x += [0.0, *theme.rounded([standing.gaps]), None]
        y += [row, row, None]
    line = {"color": "#D5D9DE", "width": 2}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _dots(
    standings: Sequence[RoleStanding],
    members: Sequence[int],
    places: Sequence[int],
    *,
    kind: str,
    place: int,
    samples: Mapping[str, str],
) -> go.Scatter:
    colour, symbol = theme.kind_style(place)
    return go.Scatter(
        x=theme.rounded(standings[i].gaps for i in members),
        y=[places[i] for i in members],
        mode="markers",
        name=plain(kind),
        marker={"color": colour, "symbol": symbol, "size": 10},
        hoverinfo="text",
        hovertext=[_describe(standings[i], kind, samples) for i in members],
    )


def _default_dot(row: int, sample: str) -> go.Scatter:
    return go.Scatter(
        x=[1.0],
        y=[row],
        mode="markers",
        name="default: the Assistant",
        marker={"color": theme.DEFAULT_COLOUR, "symbol": "star", "size": 15},
        hoverinfo="text",
        hovertext=[hover_box(DEFAULT_ROLE, "1 gap unit, by definition", quote=sample)],
    )


def _dress_axes(
    figure: go.Figure, standings: Sequence[RoleStanding], places: Sequence[int]
) -> None:
    names = [plain(standing.name) for standing in standings]
    default = f'<span style="color:{theme.DEFAULT_COLOUR}"><b>{DEFAULT_ROLE}</b></span>'
    figure.add_vline(x=0, line={"color": theme.FAINT, "width": 1})
    figure.add_vline(x=1, line={"color": theme.DEFAULT_COLOUR, "width": 1, "dash": "dash"})
    figure.update_xaxes(
        title_text="← role-playing    projection in gap units (0 role mean, 1 default mean)    "
        "Assistant →",
        range=theme.padded_range([0.0, 1.0, *(s.gaps for s in standings)], share=0.04),
    )
    figure.update_yaxes(
        tickvals=list(places),
        ticktext=[*names, default],
        range=[-0.8, len(standings) + 0.8],
        showgrid=False,
        tickfont={"size": theme.LABEL_PX},
    )


def _describe(standing: RoleStanding, kind: str, samples: Mapping[str, str]) -> str:
    detail = f"{fixed(standing.gaps)} gap units, {counted(standing.count, 'rollout')}, {kind}"
    return hover_box(standing.name, detail, quote=samples.get(standing.role, ""))
