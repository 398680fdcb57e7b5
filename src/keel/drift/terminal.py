"""Paths along the axis as text: a needle per turn, and a line over all turns.

Every sign can be read without colour, and lines fit the width given (60 columns are enough).
Turns are numbered from 1 here, for people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.text import Text

from keel.drift.gauge import Gauge
from keel.errors import NotFiniteError, UsageError
from keel.types import AssistantAxis, DriftReading, Replay, TurnReading

LOWEST, HIGHEST = -0.5, 1.5
"""Gap units at the ends of a needle's bar; what lies beyond is drawn as an arrow at the end."""

_LEVELS = "▁▂▃▄▅▆▇█"
_BELOW = "▼ below floor"


def draw_drift(reading: DriftReading, axis: AssistantAxis, *, width: int = 80) -> Text:
    """One conversation's path: a line per turn, and the whole path as a sparkline."""
    gauge = Gauge(axis, reading.layer, reading.floor)
    lines = [_heading(reading.conversation_id or "conversation", gauge, width)]
    lines += [
        draw_turn(turn, floor_gaps=gauge.floor_gaps, width=width, label=f"{turn.turn + 1:>3}")
        for turn in reading.turns
    ]
    if not reading.turns:
        lines.append(_cut(Text("    no turn has any text to read"), width))
    else:
        gaps = [turn.gaps for turn in reading.turns]
        lines.append(Text("    ") + draw_sparkline(gaps, width=width - 4))
    return Text("\n").join(lines)


def draw_replay(replay: Replay, axis: AssistantAxis, *, width: int = 80) -> Text:
    """Both arms of a replay: what was asked, then a needle for each arm; sparklines at the end."""
    gauge = Gauge(axis, replay.layer, replay.floor)
    lines = [_heading(replay.conversation_id or "replay", gauge, width)]
    for turn in replay.turns:
        asked = Text(f"{turn.uncapped.turn + 1:>3} ") + Text(_plain(turn.user), style="bold")
        lines.append(_cut(asked, width))
        for label, arm in (("    uncapped", turn.uncapped), ("    capped  ", turn.capped)):
            lines.append(draw_turn(arm, floor_gaps=gauge.floor_gaps, width=width, label=label))
    if not replay.turns:
        lines.append(_cut(Text("    no turn was answered in both arms"), width))
    for label, gaps in (
        ("    uncapped ", [turn.uncapped.gaps for turn in replay.turns]),
        ("    capped   ", [turn.capped.gaps for turn in replay.turns]),
    ):
        if gaps:
            lines.append(Text(label) + draw_sparkline(gaps, width=width - len(label)))
    fired = f"    {replay.setting or 'the floors'} moved {replay.firing_rate:.1%} of all slots"
    return Text("\n").join([*lines, _cut(Text(fired), width)])


def draw_turn(
    turn: TurnReading, *, floor_gaps: float | None = None, width: int = 80, label: str = ""
) -> Text:
    """One turn on one line: needle, gap units, raw projection, a mark if it is below, its words."""
    line = Text(f"{label} " if label else "", no_wrap=True)
    line += draw_needle(turn.gaps, floor_gaps=floor_gaps, width=max(8, min(40, width // 4)))
    line.append(f" {turn.gaps:+.2f}")
    line.append(f" {f'({turn.projection:+.4g})':<9}", style="dim")
    if turn.is_below_floor:
        line.append(f" {_BELOW}", style="red")
    line.append(f" {_plain(turn.text)}")
    return _cut(line, width)


def draw_needle(gaps: float, *, floor_gaps: float | None = None, width: int = 24) -> Text:
    """A bar of `width` cells from −0.5 to 1.5 gap units with a needle at `gaps`.

    `┊` stands at the role mean (0) and the default mean (1), `╋` at the floor, `●` at the needle;
    `◀` and `▶` say that it lies beyond the end. Raises NotFiniteError on NaN.
    """
    if width < 5:
        raise UsageError(f"a needle of {width} cells shows nothing, expected 5 or more")
    cells = ["─"] * width
    for mean in (0.0, 1.0):
        cells[_cell(mean, width)] = "┊"
    styles = ["dim"] * width
    if floor_gaps is not None:
        cells[_cell(floor_gaps, width)], styles[_cell(floor_gaps, width)] = "╋", "yellow"
    place = _cell(gaps, width)
    cells[place] = "◀" if gaps < LOWEST else "▶" if gaps > HIGHEST else "●"
    is_low = gaps < (0.0 if floor_gaps is None else floor_gaps)
    styles[place] = "bold red" if is_low else "bold green"
    return Text.assemble(*zip(cells, styles, strict=True), no_wrap=True)


def draw_sparkline(gaps: Sequence[float], *, width: int = 60) -> Text:
    """The path as one rising and falling line, −0.5 to 1.5 gap units from bottom to top.

    A cell per turn; where there are more turns than cells, a cell is the mean of its turns.
    """
    if width < 1:
        raise UsageError(f"a sparkline of {width} cells shows nothing, expected 1 or more")
    cells = min(width, len(gaps))
    edges = [round(n * len(gaps) / cells) for n in range(cells + 1)] if cells else []
    means = [sum(gaps[start:stop]) / (stop - start) for start, stop in pairwise(edges)]
    return Text("".join(_LEVELS[_cell(mean, len(_LEVELS))] for mean in means), no_wrap=True)


def _cell(gaps: float, width: int) -> int:
    """The cell, 0 to width − 1, that a place on the axis falls in; the ends hold what is beyond."""
    if math.isnan(gaps):
        raise NotFiniteError("cannot draw a projection that is NaN")
    share = (min(max(gaps, LOWEST), HIGHEST) - LOWEST) / (HIGHEST - LOWEST)
    return min(int(share * width), width - 1)


def _heading(name: str, gauge: Gauge, width: int) -> Text:
    """What is drawn, and where the marks of its bars lie in raw units."""
    marks = {
        "┊ roles": float(gauge.axis.role_projection[gauge.layer]),
        "┊ default": float(gauge.axis.default_projection[gauge.layer]),
    }
    if gauge.floor is not None:
        marks["╋ floor"] = gauge.floor
    legend = " · ".join(f"{mark} {value:+.4g}" for mark, value in marks.items())
    title = _cut(Text(f"{_plain(name)} · layer {gauge.layer}", style="bold"), width)
    return title + Text("\n") + _cut(Text(f"    {legend}", style="dim"), width)


def _plain(text: str) -> str:
    """The text on one line, without anything that would steer the terminal."""
    words = " ".join(text.split())
    return "".join(letter for letter in words if letter.isprintable())


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line
