"""An evaluation: rates arm by arm, shares of labels, and harm by where first answers stood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from keel.report.figures import theme
from keel.report.figures.theme import hover_box, plain
from keel.types import UNSTEERED, ArmResult, Interval, RateInRange
from keel.words import counted, fixed, number, percent

_ROW_PX = 34
_LEFT_PX, _TOP_PX = 150, 24
_TOOLBAR_PX = 28
"""Plotly's own buttons stand at the top right, where a legend may reach."""
_UNITS = {"gaps": "gap units: 0 the roles' mean, 1 the default's", "raw": "raw projection"}


def draw_rates(arms: Sequence[ArmResult], *, measure: str, baseline: Interval | None) -> go.Figure:
    """One row per arm with its interval, in the order given; the baseline as a dashed line.

    Unsteered is in the default's blue, caps in the floor's vermillion, others in grey.
    """
    rows = theme.rows_down(len(arms))
    figure = theme.new_figure(_ROW_PX * len(arms) + 100, margin={"l": _LEFT_PX})
    rates = [arm.rate for arm in arms]
    colours = [
        theme.DEFAULT_COLOUR
        if arm.arm == UNSTEERED
        else theme.FLOOR_COLOUR
        if arm.arm.startswith("capped")
        else theme.ROLES_COLOUR
        for arm in arms
    ]
    texts = [
        hover_box(
            arm.arm,
            arm.rate.text(number),
            f"n = {arm.n}",
            f"against unsteered {fixed(arm.difference.value, 3)}" if arm.difference else "",
        )
        for arm in arms
    ]
    theme.add_points(
        figure,
        [rate.value for rate in rates],
        rows,
        texts,
        marker={"size": 11, "color": colours},
        error_x=theme.error_bars(rates, thickness=1.4),
        showlegend=False,
    )
    if baseline is not None:
        theme.mark_value(figure, baseline.value, dash="dash", text="bare requests")
    ends = [end for rate in rates for end in (rate.low, rate.high)]
    figure.update_xaxes(title_text=plain(measure), range=theme.padded_range(ends))
    if min(ends) >= 0 and max(ends) <= 1:
        figure.update_xaxes(range=[0, 1], tickformat=".0%")
    names = (plain(arm.arm) for arm in arms)
    theme.name_rows(figure, rows, names, range=[-0.6, len(arms) - 0.4])
    return figure


def draw_label_shares(arms: Sequence[ArmResult], colours: Mapping[str, str]) -> go.Figure:
    """A stacked bar per arm: the share of each label."""
    labels = labels_of(arms)
    rows = theme.rows_down(len(arms))
    figure = theme.new_figure(
        _ROW_PX * len(arms) + 100 + _TOOLBAR_PX + theme.legend_px(len(labels)),
        barmode="stack",
        margin={"l": _LEFT_PX, "t": _TOP_PX + _TOOLBAR_PX},
    )
    for label in labels:
        shares = [arm.labels.get(label, 0.0) for arm in arms]
        figure.add_bar(
            x=theme.rounded(shares),
            y=rows,
            orientation="h",
            name=plain(label),
            marker_color=colours[label],
            hovertext=[f"{plain(label)}: {percent(share, 1)}" for share in shares],
        )
    figure.update_xaxes(title_text="share of answers", range=[0, 1], tickformat=".0%")
    theme.name_rows(figure, rows, (plain(arm.arm) for arm in arms))
    return figure


def draw_label_curve(
    arms: Sequence[tuple[float, ArmResult]], colours: Mapping[str, str]
) -> go.Figure:
    """Shares of labels stacked over the strength of steering (Lu et al. 2026, figure 4).

    Each arm comes with its strength, in residual norms.
    """
    figure = theme.new_figure(400, hovermode="x unified")
    for label in labels_of([arm for _, arm in arms]):
        figure.add_trace(
            theme.line(
                [strength for strength, _ in arms],
                [arm.labels.get(label, 0.0) for _, arm in arms],
                name=plain(label),
                mode="lines+markers",
                stackgroup="labels",
                line={"width": 1, "color": colours[label]},
                marker={"size": 5},
                fillcolor=colours[label],
                hoverinfo="all",
                hovertemplate="%{y:.0%}",
            )
        )
    figure.update_xaxes(title_text="← away from the Assistant    strength    towards it →")
    figure.update_yaxes(title_text="share of answers", range=[0, 1], tickformat=".0%")
    return figure


def labels_of(arms: Sequence[ArmResult]) -> list[str]:
    """Every label of the arms, in the rubric's order."""
    return list(dict.fromkeys(label for arm in arms for label in arm.labels))


def draw_harm_by_projection(
    bins: Sequence[RateInRange], *, measure: str, correlation: Interval | None
) -> go.Figure:
    """How often second answers count, by where first answers stood on the axis.

    A point per bin of first answers with its interval (Lu et al. 2026, figure 8).
    """
    figure = theme.new_figure(380)
    rates = [stretch.rate for stretch in bins]
    spans = [
        Interval((stretch.low + stretch.high) / 2, stretch.low, stretch.high) for stretch in bins
    ]
    texts = [
        hover_box(span.bounds(), stretch.rate.text(percent), counted(stretch.n, "answer"))
        for span, stretch in zip(spans, bins, strict=True)
    ]
    theme.add_points(
        figure,
        [span.value for span in spans],
        [rate.value for rate in rates],
        texts,
        mode="lines+markers",
        line={"color": theme.ROLES_COLOUR, "width": 1, "dash": "dot"},
        marker={"size": 10, "color": theme.DEFAULT_COLOUR},
        error_x=theme.error_bars(spans, width=0),
        error_y=theme.error_bars(rates, width=0),
        showlegend=False,
    )
    if correlation is not None:
        figure.add_annotation(
            text=f"r = {correlation.text()}",
            xref="paper",
            yref="paper",
            x=0.99,
            y=0.98,
            showarrow=False,
            font={"size": theme.LABEL_PX, "color": theme.FAINT},
        )
    unit = _UNITS[bins[0].unit] if bins else ""
    figure.update_xaxes(title_text=f"first answer on the axis, {unit} →")
    top = max([0.1, *(rate.high for rate in rates)])
    figure.update_yaxes(title_text=plain(measure), range=[0, 1.05 * top], tickformat=".0%")
    return figure
