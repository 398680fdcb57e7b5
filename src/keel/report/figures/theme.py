"""Colours, type and empty figures, the same in every picture.

Colours are from Okabe and Ito's palette, which colour-blind readers tell apart: blue is always
the default, vermillion always a floor; roles take the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from keel.words import number

DEFAULT_COLOUR = "#0072B2"
FLOOR_COLOUR = "#D55E00"
ROLES_COLOUR = "#8A8F98"
"""Roles taken together."""
INK = "#1F2933"
FAINT = "#6B7280"
GRID = "#E8EAED"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
FONT_PX = 12
LABEL_PX = 11

_KINDS = (
    ("#009E73", "circle"),
    ("#CC79A7", "diamond"),
    ("#E69F00", "square"),
    ("#56B4E9", "triangle-up"),
    ("#6B5B4B", "triangle-down"),
    ("#9A9A9A", "cross"),
    ("#B5A600", "pentagon"),
    ("#3B4A6B", "hexagon"),
)
_DASHES = ("solid", "dash", "dot", "dashdot")


def kind_style(place: int) -> tuple[str, str]:
    """Colour and marker symbol of the kind at a place; two cues, so that grey print works.

    Past the last colour the symbols begin anew, hollow.
    """
    colour, symbol = _KINDS[place % len(_KINDS)]
    return colour, symbol if place < len(_KINDS) else f"{symbol}-open"


def line_style(place: int) -> dict[str, Any]:
    """Colour and dash of the line at a place; a fresh dash where colours run out."""
    return {
        "color": _KINDS[place % len(_KINDS)][0],
        "dash": _DASHES[place // len(_KINDS) % len(_DASHES)],
        "width": 2,
    }


def blank_figure(height_px: int, **layout: Any) -> go.Figure:
    """An empty figure in the report's style."""
    return dress(go.Figure(), height_px, **layout)


def dress(figure: go.Figure, height_px: int, **layout: Any) -> go.Figure:
    """The figure in the report's style; anything given on top wins."""
    margin = {"l": 64, "r": 24, "t": 24, "b": 56}
    figure.update_layout(
        template=go.layout.Template(),
        height=height_px,
        margin=margin,
        font={"family": FONT, "size": FONT_PX, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
        hoverlabel={
            "align": "left",
            "bgcolor": "white",
            "bordercolor": "#C9CDD3",
            "font": {"family": FONT, "size": FONT_PX, "color": INK},
        },
        modebar={"bgcolor": "rgba(255,255,255,0.8)", "color": "#9AA1AB", "activecolor": INK},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
    )
    axis = {"gridcolor": GRID, "linecolor": "#B8BDC5", "zeroline": False, "ticks": "outside"}
    axis |= {"tickcolor": "#B8BDC5", "ticklen": 4, "showline": True}
    figure.update_xaxes(title_standoff=12, **axis)
    figure.update_yaxes(title_standoff=8, automargin=True, **axis)
    figure.update_layout(**layout)
    return figure


def rounded(values: Iterable[float], digits: int = 5) -> list[float | None]:
    """The values to some significant digits, as the page stores them; None where not finite."""
    return [
        float(f"{float(value):.{digits}g}") if math.isfinite(value) else None for value in values
    ]


def padded_range(values: Iterable[float], share: float = 0.08) -> list[float]:
    """An axis range around the finite values, with a margin on both sides."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return [0.0, 1.0]
    low, high = min(finite), max(finite)
    margin = share * (high - low) or 1.0
    return [float(f"{low - margin:.5g}"), float(f"{high + margin:.5g}")]


def whole_ticks(count: int, first: int = 0, most: int = 12) -> list[int]:
    """At most about a dozen evenly spaced whole numbers, for axes that count things."""
    step = max(1, -(-count // most))
    return list(range(first, first + count, step))


def log_axis(values: Iterable[float]) -> dict[str, Any]:
    """A logarithmic axis over the values, ticks at 1, 2 and 5 times the powers of ten."""
    powers_seen = [math.log10(value) for value in values if 0 < value < math.inf] or [0.0]
    powers = range(math.floor(min(powers_seen)) - 1, math.ceil(max(powers_seen)) + 1)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [number(tick) for tick in ticks]}


def legend_px(entries: int) -> int:
    """Height of a legend above the figure: without that room it would take it from the plot."""
    rows = 1 if entries <= 5 else -(-entries // 4)
    return 21 + 19 * rows


def legend_inside(figure: go.Figure, axis: str, place: Sequence[float]) -> dict[str, Any]:
    """A legend at a place (0 to 1 across and up) within the subplot of the axes named."""
    across = figure.layout[f"xaxis{axis}"].domain
    up = figure.layout[f"yaxis{axis}"].domain
    x = across[0] + place[0] * (across[1] - across[0])
    y = up[0] + place[1] * (up[1] - up[0])
    anchors = {"xanchor": "right" if place[0] > 0.5 else "left"}
    anchors |= {"yanchor": "top" if place[1] > 0.5 else "bottom"}
    return {"x": x, "y": y, **anchors, "bgcolor": "rgba(255,255,255,0.7)", "font": {"size": 11}}
