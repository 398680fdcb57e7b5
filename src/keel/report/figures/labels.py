"""Where to write the names of points so that no name covers another name or point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keel.report.figures.theme import LABEL_PX

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
    spots = [
        canvas.pixels(x, y) if math.isfinite(x) and math.isfinite(y) else None for x, y in points
    ]
    # A point's own label starts a pixel outside its square, so it is never its own obstacle.
    taken = [
        *kept_free,
        *(
            (spot[0] - radius_px, spot[1] - radius_px, spot[0] + radius_px, spot[1] + radius_px)
            for spot in spots
            if spot is not None
        ),
    ]
    chosen = [""] * len(names)
    for index in _order(spots, first):
        spot = spots[index]
        if spot is None or not names[index]:
            continue
        position, box = _free_position(canvas, spot, names[index], taken, radius_px)
        if box is not None:
            chosen[index] = position
            taken.append(box)
    return chosen


def _order(spots: Sequence[tuple[float, float] | None], first: Sequence[int]) -> list[int]:
    known = [spot for spot in spots if spot is not None]
    if not known:
        return []
    middle = np.mean(np.array(known), axis=0)

    def rank(index: int) -> tuple[bool, float, int]:
        spot = spots[index]
        distance = 0.0 if spot is None else float(np.hypot(*(np.array(spot) - middle)))
        return (index not in first, -distance, index)

    return sorted(range(len(spots)), key=rank)


def _free_position(
    canvas: Canvas, spot: tuple[float, float], name: str, taken: Sequence[Box], radius_px: float
) -> tuple[str, Box | None]:
    left, top, right, bottom = np.array(taken).T
    width, height = len(name) * LABEL_PX * _GLYPH_SHARE, LABEL_PX * 1.25
    for position in _TEXT_POSITIONS:
        box = _label_box(spot, position, (width, height), radius_px)
        is_inside = (
            box[0] >= 0 and box[1] >= 0 and box[2] <= canvas.width_px and box[3] <= canvas.height_px
        )
        apart = (left >= box[2]) | (right <= box[0]) | (top >= box[3]) | (bottom <= box[1])
        if is_inside and apart.all():
            return position, box
    return "", None


def _label_box(
    spot: tuple[float, float], position: str, size: tuple[float, float], radius_px: float
) -> Box:
    """The rectangle that Plotly fills with a text at a position beside a marker."""
    vertical, horizontal = position.split()
    gap = radius_px + 1
    left = spot[0] + {"left": -gap - size[0], "center": -size[0] / 2, "right": gap}[horizontal]
    top = spot[1] + {"top": -gap - size[1], "middle": -size[1] / 2, "bottom": gap}[vertical]
    return (left, top, left + size[0], top + size[1])
