"""What all figures share: template, colours, traces, hover texts, and where names are written.

Colours are from Okabe and Ito's palette, which colour-blind readers tell apart: blue is always
the default, vermillion always a floor; roles take the others.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from keel.types import Interval
from keel.words import number

DEFAULT_COLOUR = "#0072B2"
FLOOR_COLOUR = "#D55E00"
ROLES_COLOUR = "#8A8F98"
"""Roles taken together."""
INK = "#1F2933"
FAINT = "#6B7280"
PALE = "#B8BDC5"
EDGE = "#C9CDD3"
DARK = {
    INK: "#E4E8ED",
    FAINT: "#A6AFBB",
    PALE: "#6A7480",
    EDGE: "#4A535E",
    ROLES_COLOUR: "#A9AFB8",
    DEFAULT_COLOUR: "#5AB4E8",
    FLOOR_COLOUR: "#F08A3C",
    "#E8EAED": "#2C333B",
    "#D5D9DE": "#454D57",
    "#EEF0F2": "#2C333B",
    "#A9C9DF": "#4C7FA3",
    "#B9D7EA": "#3B6E92",
    "#BFC4CB": "#59626D",
    "#A8588A": "#D98BBE",
    "#6B5B4B": "#B7A288",
    "#3B4A6B": "#8FA3D1",
    "white": "#1B2127",
    "rgba(255,255,255,0.7)": "rgba(27,33,39,0.7)",
    "rgba(255,255,255,0.8)": "rgba(27,33,39,0.8)",
}
"""What a colour becomes on a dark page; the others are seen on both."""
FONT_PX = 12
LABEL_PX = 11
HOVER_COLUMNS = 64
"""Characters per line of a hover box."""
LONGEST_QUOTE = 420
"""Characters of an answer that a hover box shows."""

_FONT = {
    "family": 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif',
    "size": FONT_PX,
    "color": INK,
}
_AXIS = {
    "gridcolor": "#E8EAED",
    "linecolor": PALE,
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": PALE,
    "ticklen": 4,
    "showline": True,
}
TEMPLATE = go.layout.Template(
    layout={
        "margin": {"l": 64, "r": 24, "t": 24, "b": 56},
        "font": _FONT,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "white", "bordercolor": EDGE, "font": _FONT},
        "modebar": {"bgcolor": "rgba(255,255,255,0.8)", "color": "#9AA1AB", "activecolor": INK},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "xaxis": {**_AXIS, "title": {"standoff": 12}},
        "yaxis": {**_AXIS, "title": {"standoff": 8}, "automargin": True},
    },
    data={"scatter": [{"hoverinfo": "text"}], "bar": [{"hoverinfo": "text"}]},
)
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


def kind_style(index: int) -> tuple[str, str]:
    """Colour and marker symbol of the kind at an index; two cues, so that grey print works.

    Past the last colour the symbols begin anew, hollow.
    """
    colour, symbol = _KINDS[index % len(_KINDS)]
    return colour, symbol if index < len(_KINDS) else f"{symbol}-open"


def line_style(index: int) -> dict[str, Any]:
    """Colour and dash of the line at an index; a fresh dash where colours run out."""
    return {
        "color": _KINDS[index % len(_KINDS)][0],
        "dash": _DASHES[index // len(_KINDS) % len(_DASHES)],
        "width": 2,
    }


def new_figure(height_px: int, **layout: Any) -> go.Figure:
    """An empty figure in the report's style; what is given on top wins."""
    return dress(go.Figure(), height_px, **layout)


def dress(figure: go.Figure, height_px: int, **layout: Any) -> go.Figure:
    """The figure in the report's style; what is given on top wins."""
    return figure.update_layout(template=TEMPLATE, height=height_px, **layout)


def add_points(
    figure: go.Figure, x: Iterable[float], y: Iterable[float], texts: Iterable[str], **trace: Any
) -> None:
    """Adds markers with a hover box each."""
    settings = {"mode": "markers", "cliponaxis": False, **trace}
    figure.add_scatter(x=rounded(x), y=rounded(y), hovertext=list(texts), **settings)


def line(x: Iterable[float | None], y: Iterable[float | None], **trace: Any) -> go.Scatter:
    """A line; None breaks it. The legend shows named lines, hovering those with texts."""
    settings = {"mode": "lines", "showlegend": bool(trace.get("name")), **trace}
    settings.setdefault("hoverinfo", "text" if "hovertext" in trace else "skip")
    return go.Scatter(x=rounded(x), y=rounded(y), **settings)


def band(
    x: Sequence[float], intervals: Sequence[Interval], colour: str, opacity: float
) -> go.Scatter:
    """The area between the ends of intervals."""
    ends = [value.high for value in intervals] + [value.low for value in intervals][::-1]
    return line(
        [*x, *x[::-1]], ends, fill="toself", fillcolor=colour, opacity=opacity, line={"width": 0}
    )


def error_bars(
    intervals: Iterable[Interval], colour: str = ROLES_COLOUR, scale: float = 1, **style: Any
) -> dict[str, Any]:
    """How far each interval reaches either way, as Plotly takes it."""
    ends = [(scale * (v.high - v.value), scale * (v.value - v.low)) for v in intervals]
    return {
        "type": "data",
        "symmetric": False,
        "array": rounded(up for up, _ in ends),
        "arrayminus": rounded(down for _, down in ends),
        "thickness": 1.2,
        "color": colour,
        **style,
    }


def mark_level(
    figure: go.Figure, level: float, text: str = "", *, colour: str = FAINT, dash: str = "dot"
) -> None:
    """A line across each panel that has traces, at a height; a text stands to the right of it."""
    line = {"color": colour, "width": 1.2 if dash == "dash" else 1, "dash": dash}
    _mark_panels(figure, y0=level, y1=level, line=line)
    if text:
        figure.add_annotation(
            text=text,
            font={"size": LABEL_PX, "color": colour},
            x=1.005,
            xref="x domain",
            xanchor="left",
            y=level,
            yref="y",
            yanchor="middle",
            showarrow=False,
        )


def mark_value(
    figure: go.Figure, value: float, colour: str = FAINT, dash: str = "solid", text: str = ""
) -> None:
    """An upright line across each panel that has traces; a text stands at its upper end."""
    line = {"color": colour, "width": 1, "dash": dash}
    _mark_panels(figure, x0=value, x1=value, line=line)
    if text:
        figure.add_annotation(
            text=text,
            font={"size": LABEL_PX},
            x=value,
            xref="x",
            xanchor="left",
            y=1,
            yref="y domain",
            yanchor="top",
            showarrow=False,
        )


def shade_values(figure: go.Figure, low: float, high: float, colour: str) -> None:
    """A pale upright band between two values, behind the traces of each panel that has some."""
    shape = {"type": "rect", "fillcolor": colour, "opacity": 0.1, "layer": "below"}
    _mark_panels(figure, x0=low, x1=high, line={"width": 0}, **shape)


def _mark_panels(figure: go.Figure, **shape: Any) -> None:
    """A shape in each panel that has traces, from edge to edge in the direction not given.

    All of them are set at once: plotly's `add_vline` and its like check every shape anew for each
    panel, which took a quarter of the CPU time of a page.
    """
    panels = {(trace.xaxis or "x", trace.yaxis or "y"): None for trace in figure.data}
    if "y0" in shape:
        edges, refs = {"x0": 0, "x1": 1}, ("{} domain", "{}")
    else:
        edges, refs = {"y0": 0, "y1": 1}, ("{}", "{} domain")
    figure.layout.shapes += tuple(
        {"type": "line", "xref": refs[0].format(x), "yref": refs[1].format(y), **edges, **shape}
        for x, y in panels or [("x", "y")]
    )


def rows_down(count: int) -> list[int]:
    """The heights of so many rows, the first on top."""
    return list(range(count))[::-1]


def name_rows(figure: go.Figure, rows: Sequence[float], names: Iterable[str], **axis: Any) -> None:
    """Names on the axis of a figure with a row for each."""
    figure.update_yaxes(tickvals=list(rows), ticktext=list(names), showgrid=False, **axis)


def plain(text: str) -> str:
    """The text on one line, shown as it is: Plotly reads a subset of HTML in labels."""
    flat = " ".join(text.split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def wrapped(text: str) -> str:
    """The beginning of a text, broken into lines for a hover box."""
    words = " ".join(text.split())
    if len(words) > LONGEST_QUOTE:
        words = f"{words[:LONGEST_QUOTE].rstrip()} …"
    return "<br>".join(plain(part) for part in textwrap.wrap(words, HOVER_COLUMNS))


def hover_box(heading: str, *details: str, question: str = "", quote: str = "") -> str:
    """A bold heading, lines of details, and beneath them what was said, and to which question."""
    lines = [f"<b>{plain(heading)}</b>", *(plain(detail) for detail in details if detail)]
    if question:
        lines += ["", f"<i>{wrapped(question)}</i>"]
    if quote:
        lines += ["", wrapped(quote)]
    return "<br>".join(lines)


def rounded(values: Iterable[float | None], digits: int = 5) -> list[float | None]:
    """The values to some significant digits, as the page stores them; None where not finite."""
    return [
        float(f"{float(value):.{digits}g}") if value is not None and math.isfinite(value) else None
        for value in values
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


Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

_TEXT_POSITIONS = (
    "middle right",
    "middle left",
    "top center",
    "bottom center",
    "top right",
    "top left",
    "bottom right",
    "bottom left",
)
_GLYPH_SHARE = 0.62
"""Mean width of a letter in font sizes; wide enough for the widest system font (DejaVu Sans)."""


@dataclass(frozen=True)
class Canvas:
    """The plotting area: its size in pixels and the ranges of its axes."""

    width_px: float
    height_px: float
    x_range: Sequence[float]
    y_range: Sequence[float]

    def pixels(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is drawn, from the upper left."""
        across = (x - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = (y - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return across * self.width_px, (1 - up) * self.height_px


def position_labels(
    canvas: Canvas,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    *,
    first: Sequence[int] = (),
    kept_free: Sequence[Box] = (),
    radius_px: float = 6.0,
) -> list[str]:
    """Plotly text position of each name, empty where none is free.

    Names in `first` choose before the others, then those farthest from the middle: they are the
    ones a reader looks for. No name enters `kept_free`. Greedy, so the same points always get the
    same positions.
    """
    spots = {
        at: canvas.pixels(x, y)
        for at, (x, y) in enumerate(points)
        if math.isfinite(x) and math.isfinite(y)
    }
    # A point's own label starts a pixel outside its square, so it is never its own obstacle.
    squares = [
        (x - radius_px, y - radius_px, x + radius_px, y + radius_px) for x, y in spots.values()
    ]
    taken = [*kept_free, *squares]
    chosen = [""] * len(names)
    middle = np.mean(list(spots.values()), axis=0) if spots else None

    def rank(at: int) -> tuple[bool, float, int]:
        return at not in first, -float(np.hypot(*(np.array(spots[at]) - middle))), at

    for at in sorted((at for at in spots if names[at]), key=rank):
        size = len(names[at]) * LABEL_PX * _GLYPH_SHARE, LABEL_PX * 1.25
        left, top, right, bottom = np.array(taken).T
        for position in _TEXT_POSITIONS:
            box = _label_box(spots[at], position, size, radius_px)
            is_inside = min(box) >= 0 and box[2] <= canvas.width_px and box[3] <= canvas.height_px
            apart = (left >= box[2]) | (right <= box[0]) | (top >= box[3]) | (bottom <= box[1])
            if is_inside and apart.all():
                chosen[at] = position
                taken.append(box)
                break
    return chosen


def _label_box(
    spot: tuple[float, float], position: str, size: tuple[float, float], radius_px: float
) -> Box:
    """The rectangle that Plotly fills with a text at a position beside a marker."""
    vertical, horizontal = position.split()
    gap = radius_px + 1
    left = spot[0] + {"left": -gap - size[0], "center": -size[0] / 2, "right": gap}[horizontal]
    top = spot[1] + {"top": -gap - size[1], "middle": -size[1] / 2, "bottom": gap}[vertical]
    return (left, top, left + size[0], top + size[1])
