"""How often the second answer does harm, by where the first one stood on the axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from keel.report.figures import theme
from keel.report.figures.text import hover_box, plain
from keel.types import Interval, RateInRange
from keel.words import counted, fixed, percent

_UNITS = {"gaps": "gap units: 0 the roles' mean, 1 the default's", "raw": "raw projection"}


def draw_harm_by_projection(
    bins: Sequence[RateInRange], *, measure: str, correlation: Interval | None
) -> go.Figure:
    """A point per bin of first answers with its interval (Lu et al. 2026, figure 8)."""
    figure = theme.blank_figure(380)
    rates = [one.rate for one in bins]
    figure.add_scatter(
        x=theme.rounded((one.low + one.high) / 2 for one in bins),
        y=theme.rounded(rate.value for rate in rates),
        mode="lines+markers",
        line={"color": theme.ROLES_COLOUR, "width": 1, "dash": "dot"},
        marker={"size": 10, "color": theme.DEFAULT_COLOUR},
        error_x=_bars([(one.high - one.low) / 2] * 2 for one in bins),
        error_y=_bars([rate.high - rate.value, rate.value - rate.low] for rate in rates),
        hoverinfo="text",
        hovertext=[_describe(one) for one in bins],
        showlegend=False,
    )
    if correlation is not None:
        _write_correlation(figure, correlation)
    unit = _UNITS[bins[0].unit] if bins else ""
    figure.update_xaxes(title_text=f"first answer on the axis, {unit} →")
    top = max([0.1, *(rate.high for rate in rates)])
    figure.update_yaxes(title_text=plain(measure), range=[0, 1.05 * top], tickformat=".0%")
    return figure


def _bars(ends: Iterable[Sequence[float]]) -> dict[str, Any]:
    """Error bars from pairs of how far up and how far down."""
    pairs = list(ends)
    return {
        "type": "data",
        "symmetric": False,
        "array": theme.rounded(up for up, _ in pairs),
        "arrayminus": theme.rounded(down for _, down in pairs),
        "thickness": 1.2,
        "width": 0,
        "color": "#8A8F98",
    }


def _write_correlation(figure: go.Figure, found: Interval) -> None:
    figure.add_annotation(
        text=f"r = {found.text()}",
        xref="paper",
        yref="paper",
        x=0.99,
        y=0.98,
        showarrow=False,
        font={"size": theme.LABEL_PX, "color": theme.FAINT},
    )


def _describe(one: RateInRange) -> str:
    return hover_box(
        f"{fixed(one.low)} to {fixed(one.high)}",
        f"{percent(one.rate.value)} ({percent(one.rate.low)} to {percent(one.rate.high)})",
        counted(one.n, "answer"),
    )
