"""Price of each setting against its effect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from keel.report.figures import theme
from keel.report.figures.labels import Canvas, place_labels
from keel.report.figures.text import hover_box, plain
from keel.types import Calibration, PricedSetting
from keel.words import fixed, number, percent

_HEIGHT_PX = 480
_MARGIN = {"l": 64, "r": 24, "t": 40, "b": 60}
_CANVAS_PX = (770.0, _HEIGHT_PX - _MARGIN["t"] - _MARGIN["b"])
_WIDE = 20.0
"""Ratio of largest to smallest price from which the price axis is logarithmic."""


def draw_prices(calibration: Calibration) -> go.Figure:
    """Every setting by price and effect, the bound as a line, the chosen one in blue."""
    is_log = _spans_decades(calibration)
    figure = theme.blank_figure(_HEIGHT_PX, margin=_MARGIN)
    places = _places(calibration, is_log)
    is_chosen = [setting.name == calibration.chosen for setting in calibration.settings]
    tried = {"color": theme.ROLES_COLOUR, "symbol": "circle", "size": 9}
    chosen = {"color": theme.DEFAULT_COLOUR, "symbol": "star", "size": 17}
    for name, marker, wanted in (("tried", tried, False), ("chosen", chosen, True)):
        members = [i for i, is_one in enumerate(is_chosen) if is_one is wanted]
        figure.add_trace(_points(calibration.settings, members, places, name=name, marker=marker))
    _mark_bound(figure, calibration.price_bound, is_log)
    _dress_axes(figure, calibration, is_log)
    return figure


def _dress_axes(figure: go.Figure, calibration: Calibration, is_log: bool) -> None:
    x_range, y_range = _ranges(calibration, is_log)
    scale = ", log scale" if is_log else ""
    figure.update_xaxes(
        type="linear",
        range=x_range,
        title_text=f"price: KL on default answers (nats per token{scale})",
    )
    if is_log:
        figure.update_xaxes(theme.log_axis(_prices(calibration)))
    figure.update_yaxes(range=y_range, title_text="effect: rise of role answers (gap units)")


def _prices(calibration: Calibration) -> list[float]:
    """All prices, and the bound among them."""
    return [setting.kl_default for setting in calibration.settings] + [calibration.price_bound]


def _spans_decades(calibration: Calibration) -> bool:
    prices = _prices(calibration)
    return min(prices) > 0 and max(prices) / min(prices) > _WIDE


def _ranges(calibration: Calibration, is_log: bool) -> tuple[list[float], list[float]]:
    """Ranges of both axes, as Plotly takes them: the logarithm where the axis is logarithmic."""
    x = [_on_axis(price, is_log) for price in _prices(calibration)]
    effects = [0.0, *(setting.shift_gaps for setting in calibration.settings)]
    return theme.padded_range(x), theme.padded_range(effects)


def _places(calibration: Calibration, is_log: bool) -> list[str]:
    settings = calibration.settings
    x = [_on_axis(setting.kl_default, is_log) for setting in settings]
    canvas = Canvas(*_CANVAS_PX, *_ranges(calibration, is_log))
    bound_px = canvas.pixels(_on_axis(calibration.price_bound, is_log), 0)[0]
    chosen = [i for i, s in enumerate(settings) if s.name == calibration.chosen]
    return place_labels(
        canvas,
        [(price, setting.shift_gaps) for price, setting in zip(x, settings, strict=True)],
        [setting.name for setting in settings],
        first=chosen,
        kept_free=[(bound_px - 1, 0, bound_px + 1, canvas.height_px)],
        radius_px=7.0,
    )


def _points(
    settings: Sequence[PricedSetting],
    members: Sequence[int],
    places: Sequence[str],
    *,
    name: str,
    marker: dict[str, object],
) -> go.Scatter:
    return go.Scatter(
        x=theme.rounded(settings[i].kl_default for i in members),
        y=theme.rounded(settings[i].shift_gaps for i in members),
        mode="markers+text",
        name=name,
        marker=marker,
        text=[plain(settings[i].name) if places[i] else "" for i in members],
        textposition=[places[i] or "top center" for i in members],
        textfont={"size": theme.LABEL_PX, "color": theme.INK},
        hoverinfo="text",
        hovertext=[_describe(settings[i]) for i in members],
        cliponaxis=False,
    )


def _describe(setting: PricedSetting) -> str:
    return hover_box(
        setting.name,
        f"price {number(setting.kl_default)} nats per token",
        f"effect {fixed(setting.shift_gaps)} gap units",
        f"{percent(setting.firing_rate)} of slots moved",
    )


def _mark_bound(figure: go.Figure, bound: float, is_log: bool) -> None:
    figure.add_vline(x=bound, line={"color": theme.INK, "width": 1, "dash": "dash"})
    # Plotly takes a line's place in nats even on a logarithmic axis, a text's as a logarithm.
    figure.add_annotation(
        x=_on_axis(bound, is_log),
        y=1,
        yref="paper",
        yanchor="bottom",
        text=f"bound {number(bound)}",
        showarrow=False,
        font={"size": theme.LABEL_PX},
    )


def _on_axis(price: float, is_log: bool) -> float:
    """Where Plotly counts a price to be along the axis."""
    return math.log10(price) if is_log else price
