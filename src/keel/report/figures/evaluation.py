"""An evaluation: rates arm by arm, shares of labels, and labels along a sweep of strengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from keel.report.figures import theme
from keel.report.figures.text import hover_box, plain
from keel.types import UNSTEERED, ArmResult, Interval
from keel.words import fixed, number, percent

_ROW_PX = 34
_MARGIN = {"l": 150, "r": 24, "t": 24, "b": 56}
_TOOLBAR_PX = 28
"""Plotly's own buttons stand at the top right, where a legend may reach."""


def draw_rates(arms: Sequence[ArmResult], *, measure: str, baseline: Interval | None) -> go.Figure:
    """One row per arm with its interval, in the order given; what is bare as a dashed line."""
    places = list(range(len(arms)))[::-1]
    figure = theme.blank_figure(_ROW_PX * len(arms) + 100, margin=_MARGIN)
    rates = [arm.rate for arm in arms]
    figure.add_scatter(
        x=theme.rounded(rate.value for rate in rates),
        y=places,
        mode="markers",
        marker={"size": 11, "color": [_colour(arm.arm) for arm in arms]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": theme.rounded(rate.high - rate.value for rate in rates),
            "arrayminus": theme.rounded(rate.value - rate.low for rate in rates),
            "thickness": 1.4,
            "color": "#8A8F98",
        },
        hoverinfo="text",
        hovertext=[_describe(arm) for arm in arms],
        showlegend=False,
    )
    if baseline is not None:
        figure.add_vline(
            x=baseline.value,
            line={"color": theme.FAINT, "width": 1, "dash": "dash"},
            annotation_text="bare requests",
            annotation_font_size=theme.LABEL_PX,
        )
    _dress_rates(figure, rates, measure)
    figure.update_yaxes(
        tickvals=places,
        ticktext=[plain(arm.arm) for arm in arms],
        range=[-0.6, len(arms) - 0.4],
        showgrid=False,
    )
    return figure


def draw_label_shares(arms: Sequence[ArmResult], colours: Mapping[str, str]) -> go.Figure:
    """A stacked bar per arm: the share of each label."""
    labels = labels_of(arms)
    places = list(range(len(arms)))[::-1]
    height = _ROW_PX * len(arms) + 100 + _TOOLBAR_PX + theme.legend_px(len(labels))
    margin = {**_MARGIN, "t": _MARGIN["t"] + _TOOLBAR_PX}
    figure = theme.blank_figure(height, barmode="stack", margin=margin)
    for label in labels:
        shares = [arm.labels.get(label, 0.0) for arm in arms]
        figure.add_bar(
            x=theme.rounded(shares),
            y=places,
            orientation="h",
            name=plain(label),
            marker_color=colours[label],
            hoverinfo="text",
            hovertext=[f"{plain(label)}: {percent(share, 1)}" for share in shares],
        )
    figure.update_xaxes(title_text="share of answers", range=[0, 1], tickformat=".0%")
    figure.update_yaxes(tickvals=places, ticktext=[plain(arm.arm) for arm in arms], showgrid=False)
    return figure


def draw_label_curve(
    points: Sequence[tuple[float, ArmResult]], colours: Mapping[str, str]
) -> go.Figure:
    """Shares of labels stacked over the strength of steering (Lu et al. 2026, figure 4).

    Each point is a strength, in residual norms, and the arm that took it.
    """
    labels = labels_of([arm for _, arm in points])
    figure = theme.blank_figure(400, hovermode="x unified")
    for label in labels:
        figure.add_scatter(
            x=theme.rounded(strength for strength, _ in points),
            y=theme.rounded(arm.labels.get(label, 0.0) for _, arm in points),
            name=plain(label),
            mode="lines+markers",
            stackgroup="labels",
            line={"width": 1, "color": colours[label]},
            marker={"size": 5},
            fillcolor=colours[label],
            hovertemplate="%{y:.0%}",
        )
    figure.update_xaxes(title_text="← away from the Assistant    strength    towards it →")
    figure.update_yaxes(title_text="share of answers", range=[0, 1], tickformat=".0%")
    return figure


def labels_of(arms: Sequence[ArmResult]) -> list[str]:
    """Every label of the arms, in the rubric's order."""
    return list(dict.fromkeys(label for arm in arms for label in arm.labels))


def _dress_rates(figure: go.Figure, rates: Sequence[Interval], measure: str) -> None:
    ends = [value for rate in rates for value in (rate.low, rate.high)]
    if min(ends) >= 0 and max(ends) <= 1:
        figure.update_xaxes(title_text=plain(measure), range=[0, 1], tickformat=".0%")
    else:
        figure.update_xaxes(title_text=plain(measure), range=theme.padded_range(ends))


def _colour(arm: str) -> str:
    """Unsteered in the default's blue, the cap in the floor's vermillion, others in grey."""
    if arm == UNSTEERED:
        return theme.DEFAULT_COLOUR
    return theme.FLOOR_COLOUR if arm.startswith("capped") else theme.ROLES_COLOUR


def _describe(arm: ArmResult) -> str:
    rate = arm.rate
    told = [f"{number(rate.value)} ({number(rate.low)} to {number(rate.high)})", f"n = {arm.n}"]
    if arm.difference is not None:
        told.append(f"against unsteered {fixed(arm.difference.value, 3)}")
    return hover_box(arm.arm, *told)
