"""Draws with characters, for terminals: needles, sparklines, bars and intervals.

Every sign can be read without colour, and lines fit the width given (60 columns are enough).
Turns are numbered from 1 on screen, from 0 in code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from rich.cells import cell_len
from rich.text import Text

from keel.errors import NotFiniteError, UsageError
from keel.report.inputs import floor_in_gaps
from keel.types import AssistantAxis, DriftReading, Interval, Replay, TurnReading
from keel.words import fixed, number, signed, tenths

LOWEST, HIGHEST = -0.5, 1.5
"""Gap units at the ends of a needle's bar; what lies beyond is drawn as an arrow at the end."""

_LEVELS = "▁▂▃▄▅▆▇█"
_UNREAD = "no token of its own: not read"
_MOST_ROWS = 24
"""Rows of a ranking; of more both ends are shown."""
_WIDEST_NAME = 22


def draw_drift(reading: DriftReading, axis: AssistantAxis, *, width: int = 80) -> Text:
    """Draws a conversation's path: a line per turn, and a sparkline over all turns."""
    lines = _heading(reading.conversation_id or "conversation", reading, axis, width)
    floor_gaps = floor_in_gaps(axis, reading.floor, reading.layer)
    drawn = {
        turn.turn: draw_turn(turn, floor_gaps=floor_gaps, width=width, label=f"{turn.turn + 1:>3}")
        for turn in reading.turns
    }
    drawn |= {turn: _cut(Text(f"{turn + 1:>3} {_UNREAD}"), width) for turn in reading.unread}
    lines += [drawn[turn] for turn in sorted(drawn)]
    if not reading.turns:
        lines.append(_cut(Text("    no turn has any text to read"), width))
    else:
        gaps = [turn.gaps for turn in reading.turns]
        lines.append(Text("    ") + draw_sparkline(gaps, width=width - 4))
    return Text("\n").join(lines)


def draw_replay(replay: Replay, axis: AssistantAxis, *, width: int = 80) -> Text:
    """Draws both arms of a replay: each user message with a needle per arm, then sparklines."""
    lines = _heading(replay.conversation_id or "replay", replay, axis, width)
    floor_gaps = floor_in_gaps(axis, replay.floor, replay.layer)
    for turn in replay.turns:
        question = Text(f"{turn.uncapped.turn + 1:>3} ") + Text(plain_line(turn.user), style="bold")
        lines.append(_cut(question, width))
        for label, arm in (("    uncapped", turn.uncapped), ("    capped  ", turn.capped)):
            lines.append(draw_turn(arm, floor_gaps=floor_gaps, width=width, label=label))
    for unread in replay.unread:
        lines.append(_cut(Text(f"{unread + 1:>3} not answered in both arms"), width))
    if not replay.turns:
        lines.append(_cut(Text("    no turn was answered in both arms"), width))
    for label, gaps in (
        ("    uncapped ", [turn.uncapped.gaps for turn in replay.turns]),
        ("    capped   ", [turn.capped.gaps for turn in replay.turns]),
    ):
        if gaps:
            lines.append(Text(label) + draw_sparkline(gaps, width=width - len(label)))
    fired = f"    {replay.setting or 'the floors'} moved {tenths(replay.firing_rate)} of all slots"
    return Text("\n").join([*lines, _cut(Text(fired), width)])


def draw_turn(
    turn: TurnReading, *, floor_gaps: float | None = None, width: int = 80, label: str = ""
) -> Text:
    """Draws a turn on one line.

    Needle, gap units, raw projection, what is expected of a turn of its number and how it reads
    alone where these are known, a mark if it is low, text.
    """
    line = Text(f"{label} " if label else "", no_wrap=True)
    line += draw_needle(turn.gaps, floor_gaps=floor_gaps, width=max(8, min(40, width // 4)))
    line.append(f" {signed(turn.gaps)}")
    line.append(f" {f'({_raw(turn.projection)})':<9}", style="dim")
    if turn.expected_gaps is not None:
        line.append(f" expected {signed(turn.expected_gaps)}", style="dim")
    if turn.gaps_alone is not None and turn.turn > 0:
        line.append(f" alone {signed(turn.gaps_alone)}", style="dim")
    if turn.is_low:
        line.append(f" ▼ {turn.mark}", style="red")
    line.append(f" {plain_line(turn.text)}")
    return _cut(line, width)


def draw_needle(gaps: float, *, floor_gaps: float | None = None, width: int = 24) -> Text:
    """Draws a bar of `width` cells from −0.5 to 1.5 gap units with a needle at `gaps`.

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
    tip = _cell(gaps, width)
    cells[tip] = "◀" if gaps < LOWEST else "▶" if gaps > HIGHEST else "●"
    is_low = gaps < (0.0 if floor_gaps is None else floor_gaps)
    styles[tip] = "bold red" if is_low else "bold green"
    return Text.assemble(*zip(cells, styles, strict=True), no_wrap=True)


def draw_sparkline(
    values: Sequence[float], *, width: int = 60, low: float = LOWEST, high: float = HIGHEST
) -> Text:
    """Draws values as one rising and falling line, `low` to `high` from bottom to top.

    A cell per value; where there are more values than cells, a cell is the mean of its values.
    """
    if width < 1:
        raise UsageError(f"a sparkline of {width} cells shows nothing, expected 1 or more")
    cells = min(width, len(values))
    edges = [round(n * len(values) / cells) for n in range(cells + 1)] if cells else []
    means = [sum(values[start:stop]) / (stop - start) for start, stop in pairwise(edges)]
    levels = (_LEVELS[_cell(mean, len(_LEVELS), low, high)] for mean in means)
    return Text("".join(levels), no_wrap=True)


def draw_interval(
    value: Interval, low: float, high: float, width: int, marks: Iterable[float] = ()
) -> str:
    """Draws an interval as a line with its value on it, from `low` to `high`; `┊` at each mark.

    >>> draw_interval(Interval(0.5, 0.25, 0.75), 0, 1, width=9)
    '··├─●─┤··'
    """

    def cell(at: float) -> int:
        return round((min(max(at, low), high) - low) / (high - low or 1.0) * (width - 1))

    first, middle, last = cell(value.low), cell(value.value), cell(value.high)
    line = ["·"] * width
    for mark in marks:
        line[cell(mark)] = "┊"
    line[first : last + 1] = ["─"] * (last - first + 1)
    line[first], line[last] = "├", "┤"
    line[middle] = "●"
    return "".join(line)


def draw_bars(values: Sequence[Interval | float | None], width: int) -> list[str]:
    """Draws a bar for each number and a line for each interval; nothing for None.

    All share one scale, which begins at 0 or below. Numbers below 0 have no bar.
    """
    known = [value for value in values if value is not None]
    ends = _finite_ends(v if isinstance(v, Interval) else Interval(v, v, v) for v in known)
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if low >= 0 and high <= 1 and any(isinstance(value, Interval) for value in known):
        high = 1.0  # shares: the whole is worth seeing
    bars = []
    for value in values:
        if isinstance(value, Interval):
            bars.append(draw_interval(value, low, high, width))
        else:
            share = 0.0 if value is None or not high > 0 else max(0.0, value) / high
            bars.append("█" * round(share * width))
    return bars


def draw_ranking(
    rows: Sequence[tuple[str, Interval | float]],
    *,
    width: int,
    marks: Sequence[float] = (0.0,),
    legend: str = "",
    write: Callable[[float], str] = fixed,
) -> Text:
    """Draws a line per name with its value or interval, in the order given; of many only the ends.

    `┊` stands at each of the marks; the legend says what they are. `write` forms the values.
    """
    half = _MOST_ROWS // 2
    shown = [*rows] if len(rows) <= _MOST_ROWS else [*rows[:half], *rows[-half:]]
    values = [v if isinstance(v, Interval) else Interval(v, v, v) for _, v in shown]
    ends = _finite_ends(values)
    low, high = min([*marks, *ends]), max([*marks, *ends])
    room = min(_WIDEST_NAME, max((cell_len(name) for name, _ in shown), default=0))
    lines = [Text(f"    {legend}", style="dim")] if legend else []
    for at, ((name, _), value) in enumerate(zip(shown, values, strict=True)):
        if at == half and len(shown) < len(rows):
            lines.append(Text(f"    … {len(rows) - len(shown)} between", style="dim"))
        label = f"    {plain_line(name):<{room}.{room}} {plain_line(write(value.value)):>6} "
        line = Text(label, no_wrap=True)
        cells = max(7, min(48, width - line.cell_len))
        lines.append(line + Text(draw_interval(value, low, high, cells, marks), style="dim"))
    return Text("\n").join(_cut(line, width) for line in lines)


def _finite_ends(values: Iterable[Interval]) -> list[float]:
    """Values and ends of intervals, those that nothing bounds left out."""
    ends = (end for value in values for end in (value.value, value.low, value.high))
    return [end for end in ends if math.isfinite(end)]


def draw_curves(curves: Mapping[str, Sequence[float]], at: int, *, width: int) -> Text:
    """Draws a sparkline over the layers per measure, with its ends and one layer's value.

    Measures that are not known at every layer are left out.
    """
    known = {name: values for name, values in curves.items() if all(map(math.isfinite, values))}
    room = max(map(len, known), default=0)
    lines = []
    for name, values in known.items():
        low, high = min(values), max(values)
        ends = f" {low:.2f} to {high:.2f}, at layer {at}: {values[at]:.2f}"
        cells = max(8, width - room - 5 - len(ends))
        spark = draw_sparkline(values, width=cells, low=low, high=high if high > low else low + 1)
        lines.append(_cut(Text(f"    {name:<{room}} ") + spark + Text(ends, style="dim"), width))
    return Text("\n").join(lines)


def _cell(value: float, width: int, low: float = LOWEST, high: float = HIGHEST) -> int:
    """The cell, 0 to width − 1, that a value falls in; the ends hold what is beyond."""
    if math.isnan(value):
        raise NotFiniteError("cannot draw a projection that is NaN")
    share = (min(max(value, low), high) - low) / (high - low)
    return min(int(share * width), width - 1)


def _heading(name: str, path: DriftReading | Replay, axis: AssistantAxis, width: int) -> list[Text]:
    """What is drawn, and where the marks of its bars lie in raw units."""
    marks = {
        "┊ roles": float(axis.role_projection[path.layer]),
        "┊ default": float(axis.default_projection[path.layer]),
    }
    if path.floor is not None:
        marks["╋ floor"] = path.floor
    legend = " · ".join(f"{mark} {_raw(value)}" for mark, value in marks.items())
    title = _cut(Text(f"{plain_line(name)} · layer {path.layer}", style="bold"), width)
    return [title, _cut(Text(f"    {legend}", style="dim"), width)]


def _raw(projection: float) -> str:
    """A projection in raw units to four digits, signed."""
    return signed(projection, lambda value: number(value, 4))


def plain_line(text: str) -> str:
    """The text on one line, without anything that would steer the terminal."""
    words = " ".join(text.split())
    return "".join(letter for letter in words if letter.isprintable())


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line
