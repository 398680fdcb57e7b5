"""Numbers as people read them, and text made safe for hover boxes."""

from __future__ import annotations

import math

import pytest

from keel.report.figures.text import LONGEST, WIDTH, hover_box, plain, wrapped
from keel.report.words import counted, fixed, listed, number, percent


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.0, "0"),
        (0.012345, "0.0123"),
        (-1.234, "−1.23"),
        (50.0, "50"),
        (0.1, "0.1"),
        (12345.6, "12,346"),
        (1e-12, "1.0e−12"),
        (math.nan, "–"),
        (-math.inf, "–"),
    ],
)
def test_a_number_keeps_three_digits(value: float, told: str) -> None:
    assert number(value) == told


def test_there_is_no_negative_zero() -> None:
    assert fixed(-0.001) == "0.00"
    assert fixed(-0.006) == "−0.01"


def test_a_percentage_stays_on_one_line() -> None:
    assert percent(0.236) == "24\N{NO-BREAK SPACE}%"
    assert percent(math.nan) == "–"


def test_nouns_agree_with_their_count() -> None:
    assert counted(1, "role") == "1 role"
    assert counted(1200, "role") == "1,200 roles"


def test_lists_end_in_and() -> None:
    assert listed([]) == ""
    assert listed(["bard"]) == "bard"
    assert listed(["bard", "ghost", "hive"]) == "bard, ghost and hive"


def test_plain_text_holds_no_tag_and_no_entity() -> None:
    assert plain("<i>a</i> &lt;\n b") == "&lt;i&gt;a&lt;/i&gt; &amp;lt; b"


def test_a_long_answer_is_cut_and_wrapped() -> None:
    lines = wrapped("word " * 200).split("<br>")
    assert all(len(line) <= WIDTH for line in lines)
    assert sum(len(line) + 1 for line in lines) <= LONGEST + len(" …") + 1
    assert lines[-1].endswith("…")


def test_an_entity_is_never_cut_in_two_by_the_wrapping() -> None:
    # Escaping comes after wrapping; the other way round, `&am` and `p;` could part.
    assert wrapped("&" * (WIDTH + 1)) == "&amp;" * WIDTH + "<br>&amp;"


def test_a_hover_box_without_a_quote_has_no_blank_lines() -> None:
    assert hover_box("ghost", "mythical", "") == "<b>ghost</b><br>mythical"
