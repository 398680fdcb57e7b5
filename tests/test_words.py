"""Numbers, intervals, lists and counts as people read them."""

from __future__ import annotations

import math

import pytest

from keel.types import Interval
from keel.words import (
    both_ends,
    counted,
    fixed,
    form_of,
    listed,
    number,
    p_value,
    percent,
    points,
    signed,
)


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


@pytest.mark.parametrize("count", range(13))
def test_no_name_stands_at_both_ends_of_a_ranking(count: int) -> None:
    ranked = [f"role{n:02}" for n in range(count)]
    first, last = both_ends(ranked, 5)
    assert (first, last[::-1]) == (ranked[: len(first)], ranked[count - len(last) :])
    assert not {*first} & {*last}
    assert len(first) == len(last) == min(5, count // 2)


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


def test_a_small_p_is_given_by_its_bound() -> None:
    assert [p_value(p) for p in (0.0009, 0.0456, None)] == ["< 0.001", "0.046", "–"]


def test_differences_of_shares_are_in_points_and_others_to_three_decimals() -> None:
    assert points(-0.0123) == form_of("share")(-0.0123) == "−1.2"
    assert form_of("nats per token")(-0.0123) == "−0.012"


def test_an_interval_writes_each_number_in_the_same_form() -> None:
    interval = Interval(-0.5, -0.75, 0.25)
    assert interval.text() == "−0.50 (−0.75 to 0.25)"
    assert interval.text(points) == "−50.0 (−75.0 to 25.0)"
    assert interval.text(percent) == "−50\xa0% (−75\xa0% to 25\xa0%)"
    assert interval.bounds("{:+.1f}".format) == "-0.8 to +0.2"


def test_a_difference_has_its_sign_and_nothing_has_none():
    assert [signed(value) for value in (0.254, -1.2, 0.0)] == ["+0.25", "−1.20", "0.00"]
    assert signed(-0.001234, number) == "−0.00123"
