"""Price of each setting against its effect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from keel.report.figures import theme
from keel.report.figures.labels import Canvas, place_labels
from keel.report.figures.text import hover_box, plain
from keel.report.words import fixed, number, percent
from keel.types import Calibration, PricedSetting

_HEIGHT_PX = 480
_MARGIN = {"l": 64, "r": 24, "t": 40, "b": 60}
_CANVAS_PX = (780.0, _HEIGHT_PX - _MARGIN["t"] - _MARGIN["b"])
_WIDE = 20.0
"""Ratio of largest to smallest price from which the price axis is logarithmic."""


def draw_prices(calibration: Calibration) -> go.Figure:
    """Every setting by price and effect, the bound as a line, the chosen one in blue."""
    is_log = _spans_decades(calibration)
    figure = theme.blank_figure(_HEIGHT_PX, margin=_MARGIN)
    places = _places(calibration, is_log)
    groups = (
        ("tried", theme.ROLES_COLOUR, "circle", 9, False),
        ("chosen", theme.DEFAULT_COLOUR, "star", 17, True),
    )
    for name, colour, symbol, size, is_chosen in groups:
        marker = {"color": colour, "symbol": symbol, "size": size}
        members = [
            i
            for i, s in enumerate(calibration.settings)
            if (s.name == calibration.chosen) is is_chosen
        ]
        figure.add_trace(_points(calibration.settings, members, places, name=name, marker=marker))
    _mark_bound(figure, calibration.price_bound)
    x_range, y_range = _ranges(calibration, is_log)
    scale = ", log scale" if is_log else ""
    figure.update_xaxes(
        type="log" if is_log else "linear",
        range=x_range,
        title=f"price: KL on default answers (nats per token{scale})",
        **({"dtick": "D2"} if is_log else {}),
    )
    figure.update_yaxes(range=y_range, title="effect: rise of role answers (gap units)")
    return figure


def _spans_decades(calibration: Calibration) -> bool:
    prices = [setting.kl_default for setting in calibration.settings] + [calibration.price_bound]
    return min(prices) > 0 and max(prices) / min(prices) > _WIDE


def _ranges(calibration: Calibration, is_log: bool) -> tuple[list[float], list[float]]:
    """Ranges of both axes, as Plotly takes them: the logarithm where the axis is logarithmic."""
    prices = [setting.kl_default for setting in calibration.settings] + [calibration.price_bound]
    x = [math.log10(price) for price in prices] if is_log else prices
    effects = [0.0, *(setting.shift_gaps for setting in calibration.settings)]
    return theme.padded_range(x), theme.padded_range(effects)


def _places(calibration: Calibration, is_log: bool) -> list[str]:
    settings = calibration.settings
    x = [math.log10(s.kl_default) if is_log else s.kl_default for s in settings]
    chosen = [i for i, s in enumerate(settings) if s.name == calibration.chosen]
    return place_labels(
        Canvas(*_CANVAS_PX, *_ranges(calibration, is_log)),
        [(price, setting.shift_gaps) for price, setting in zip(x, settings, strict=True)],
        [setting.name for setting in settings],
        first=chosen,
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


def _mark_bound(figure: go.Figure, bound: float) -> None:
    figure.add_vline(
        x=bound,
        line={"color": theme.INK, "width": 1, "dash": "dash"},
        annotation={
            "text": f"bound {number(bound)}",
            "font": {"size": theme.LABEL_PX},
            "yanchor": "bottom",
            "y": 1,
        },
    )
