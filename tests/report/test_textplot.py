"""What is drawn says what was read, with and without colour, on wide and narrow terminals."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from keel.errors import NotFiniteError, UsageError
from keel.report import draw_drift, draw_needle, draw_replay, draw_sparkline, draw_turn
from keel.testing import FakeEngine
from keel.types import DriftReading, Replay, ReplayTurn, TurnReading

AXIS = FakeEngine().axis
"""At layer 2 the roles' mean is 0 and the default's 3."""

NEEDLE = "●◀▶"
SIZES = st.integers(5, 60)
PLACES = st.floats(-10, 10)


def turn(number: int, gaps: float, text: str = "words", *, is_low: bool = False):
    return TurnReading(
        number, 3 * gaps, gaps, (3 * gaps,), text, lowest_usual_gaps=gaps + (1 if is_low else -1)
    )


def path(*turns: TurnReading, floor: float | None = None) -> DriftReading:
    return DriftReading("talk", 2, turns, floor)


def place(needle) -> int:
    return next(n for n, cell in enumerate(needle.plain) if cell in NEEDLE)


def shown(text, width: int) -> str:
    """As it reaches a pipe: no colour, no terminal."""
    out = io.StringIO()
    Console(file=out, width=width, no_color=True).print(text)
    return out.getvalue()


@given(PLACES, PLACES, SIZES)
def test_a_higher_projection_never_stands_further_left(one, other, width):
    low, high = sorted((one, other))
    assert place(draw_needle(low, width=width)) <= place(draw_needle(high, width=width))


@given(PLACES, st.none() | PLACES, SIZES)
def test_a_needle_keeps_its_width_and_has_one_point(gaps, floor, width):
    needle = draw_needle(gaps, floor_gaps=floor, width=width)
    assert needle.cell_len == width
    assert sum(cell in NEEDLE for cell in needle.plain) == 1


def test_the_needle_moves_over_the_whole_bar():
    """20 cells for 2 gap units, 0.1 each: −0.5 in cell 0, 0 in 5, 0.5 in 10, 1 in 15, 1.5 in 19."""
    found = [place(draw_needle(gaps, width=20)) for gaps in (-0.5, 0.0, 0.5, 1.0, 1.5)]
    assert found == [0, 5, 10, 15, 19]


def test_beyond_its_ends_the_needle_becomes_an_arrow():
    assert draw_needle(-0.6, width=20).plain[0] == "◀"
    assert draw_needle(float("inf"), width=20).plain[-1] == "▶"
    assert draw_needle(-0.5, width=20).plain[0] == draw_needle(1.5, width=20).plain[-1] == "●"


def test_the_means_and_the_floor_are_marked():
    """Floor 0.72 of a gap in cell 12, the means in 5 and 15, the needle in 17."""
    expected = "─────┊──────╋──┊─●──"
    assert draw_needle(1.2, floor_gaps=0.72, width=20).plain == expected


def test_the_needle_hides_the_mark_that_it_stands_on():
    assert draw_needle(0.72, floor_gaps=0.72, width=20).plain == "─────┊──────●──┊────"


def test_a_projection_that_is_nan_is_not_drawn():
    with pytest.raises(NotFiniteError, match="NaN"):
        draw_needle(float("nan"))
    with pytest.raises(NotFiniteError, match="NaN"):
        draw_sparkline([0.0, float("nan")])


def test_a_bar_too_short_to_read_is_refused():
    with pytest.raises(UsageError, match="a needle of 4 cells"):
        draw_needle(0.0, width=4)


def test_a_sparkline_has_a_cell_per_turn_and_rises_with_the_values():
    """Eight levels over −0.5 to 1.5, 0.25 each; what lies beyond stays at the ends."""
    assert draw_sparkline([-9, -0.5, -0.2, 0, 0.3, 0.5, 0.8, 1.1, 1.4, 9]).plain == "▁▁▂▃▄▅▆▇██"


def test_a_long_path_is_averaged_into_the_cells_there_are():
    """Means of the pairs: −0.5 → ▁, 0.5 → ▅, 1.5 → █."""
    assert draw_sparkline([-0.5, -0.5, 0.0, 1.0, 1.5, 1.5], width=3).plain == "▁▅█"


@given(st.lists(PLACES, max_size=200), st.integers(1, 80))
def test_a_sparkline_fits(gaps, width):
    assert draw_sparkline(gaps, width=width).cell_len == min(width, len(gaps))


def test_a_turns_line_holds_needle_units_raw_value_mark_and_words():
    line = draw_turn(turn(0, -0.25, "Boo, I say", is_low=True), floor_gaps=0.5, width=80)
    assert line.plain == "──●──┊────╋────┊──── −0.25 (−0.75)   ▼ unusually low Boo, I say"
    above = draw_turn(turn(0, 1.0, "Well", is_low=False), floor_gaps=0.5, width=80)
    assert "▼" not in above.plain


def test_a_turns_line_says_what_is_expected_and_how_the_turn_reads_alone():
    known = replace(turn(2, 0.25, "Boo"), expected_gaps=0.2, gaps_alone=0.75)
    assert "+0.25 (+0.75)   expected +0.20 alone +0.75 Boo" in draw_turn(known, width=80).plain


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_line_fits_the_terminal(width):
    wide = "你好 🤞 " * 60
    turns = [turn(n, n / 10 - 0.3, wide, is_low=n < 4) for n in range(12)]
    replay = Replay(
        "a talk with quite a long name " * 5,
        2,
        1.2,
        "layers_2:3-p75",
        tuple(ReplayTurn(wide, one, one) for one in turns),
        0.25,
    )
    for drawing in (
        draw_drift(path(*turns, floor=1.2), AXIS, width=width),
        draw_replay(replay, AXIS, width=width),
    ):
        assert all(line.cell_len <= width for line in drawing.split("\n"))
        lines = shown(drawing, width).rstrip("\n").split("\n")
        assert len(lines) == len(drawing.split("\n"))  # nothing was wrapped


def test_without_colour_no_escape_is_written_and_every_mark_is_there():
    drawing = draw_drift(path(turn(0, -0.2, is_low=True), floor=1.2), AXIS, width=60)
    text = shown(drawing, 60)
    assert "\x1b" not in text
    for mark in ("●", "┊", "╋", "▼ unusually low", "−0.20", "(−0.6)"):
        assert mark in text


def test_a_conversations_text_cannot_steer_the_terminal():
    evil = "red \x1b[31malert\x07 [bold]not bold[/bold]\nnext\u202eline"
    line = draw_turn(turn(0, 0.5, evil), width=120)
    assert line.plain.endswith("red [31malert [bold]not bold[/bold] nextline")


def test_a_path_names_its_scale_and_numbers_its_turns_from_one():
    drawing = draw_drift(path(turn(0, 1.0), turn(2, 0.0), floor=1.5), AXIS, width=60)
    lines = drawing.plain.split("\n")
    assert lines[0] == "talk · layer 2"
    assert lines[1] == "    ┊ roles 0 · ┊ default +3 · ╋ floor +1.5"
    assert [line[:4] for line in lines[2:4]] == ["  1 ", "  3 "]
    assert lines[4] == "    ▇▃"


def test_without_a_floor_none_is_drawn():
    assert "╋" not in draw_drift(path(turn(0, 1.0)), AXIS).plain


def test_a_turn_that_was_not_read_stands_where_it_was():
    reading = replace(path(turn(0, 1.0), turn(2, 0.0)), unread=(1,))
    lines = draw_drift(reading, AXIS, width=60).plain.split("\n")
    assert [line[:4] for line in lines[2:5]] == ["  1 ", "  2 ", "  3 "]
    assert lines[3] == "  2 no token of its own: not read"


def test_a_path_without_turns_says_so():
    assert "no turn has any text" in draw_drift(path(), AXIS).plain


def test_a_replay_shows_both_arms_under_each_question():
    turns = (ReplayTurn("Who are you?", turn(0, -0.2, "boo"), turn(0, 0.6, "A model")),)
    drawing = draw_replay(Replay("talk", 2, 1.5, "band", turns, 0.125), AXIS, width=80)
    lines = drawing.plain.split("\n")
    assert lines[2] == "  1 Who are you?"
    assert lines[3].startswith("    uncapped ─")
    assert lines[3].endswith("boo")
    assert lines[4].startswith("    capped   ─")
    assert lines[4].endswith("A model")
    assert lines[5:7] == ["    uncapped ▂", "    capped   ▅"]
    assert lines[7] == "    band moved 12.5\xa0% of all slots"


def test_a_replay_without_answers_says_so():
    assert "no turn was answered" in draw_replay(Replay("t", 2, None, "", (), 0.0), AXIS).plain
