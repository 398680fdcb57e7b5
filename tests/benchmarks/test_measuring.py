"""The arithmetic of the benchmarks: rounds, ratios, memory of a process of its own."""

import pytest

from benchmarks.children import in_child
from benchmarks.measuring import (
    Measurement,
    NotMeasuredError,
    Spread,
    in_turn,
    measured,
    ratios,
    timed,
)
from benchmarks.outcomes import AtLeast, AtMost, Comparison, Dial, ratio_of

MB = 2**20


def test_arms_take_turns_so_that_a_slow_minute_slows_all():
    order = []
    arms = {name: lambda name=name: order.append(name) or Measurement(1, 1) for name in "ABC"}

    rounds = in_turn(arms, 2)

    assert "".join(order) == "ABCABC"
    assert {arm: len(found) for arm, found in rounds.items()} == {"A": 2, "B": 2, "C": 2}


def test_a_ratio_is_taken_within_its_round_and_not_between_medians():
    # The machine was ten times slower in the second round: 2/1 = 2 and 30/10 = 3, median 2.5.
    # The ratio of medians would be 16/5.5 = 2.9.
    assert ratios([2, 30], [1, 10]) == Spread(median=2.5, low=2, high=3)


def test_arms_with_unequal_rounds_have_no_ratio():
    with pytest.raises(ValueError):
        ratios([1, 2], [1])


def test_a_ratio_compares_the_quantity_asked_for():
    rounds = {
        "new": [Measurement(3, 8, peak_bytes=50)],
        "old": [Measurement(2, 4, peak_bytes=100)],
    }
    assert ratio_of(rounds, "wall_s", "new", "old").median == 1.5
    assert ratio_of(rounds, "cpu_s", "new", "old").median == 2
    assert ratio_of(rounds, "peak_bytes", "new", "old").median == 0.5


@pytest.mark.parametrize(
    ("target", "ratio", "is_met"),
    [
        (AtMost(1.03), 1.03, True),
        (AtMost(1.03), 1.04, False),
        (AtLeast(2.3), 2.3, True),
        (AtLeast(2.3), 2.2, False),
        (None, 9.9, None),
    ],
)
def test_the_median_decides_whether_a_target_is_met(target, ratio, is_met):
    found = Comparison("a / b", Spread(ratio, low=0, high=99), target)
    assert found.is_met is is_met


def test_rounds_that_are_asked_for_overrule_a_benchmarks_own():
    assert Dial().rounds(usual=5, quick=2) == 5
    assert Dial(is_quick=True).rounds(usual=5, quick=2) == 2
    assert Dial(is_quick=True, repeats=7).rounds(usual=5, quick=2) == 7


def test_time_is_that_of_the_work():
    taken = timed(lambda: sum(range(200_000)))
    assert 0 < taken.cpu_s < 10
    assert 0 < taken.wall_s < 10


def working_bytes_of_64_mb() -> int:
    """Written, so that they are really held, and freed before the work ends."""
    return measured(lambda: len(bytearray(b"\x01") * (64 * MB))).working_bytes


def test_memory_that_the_work_gives_back_counts_as_its_peak():
    """In a process of its own: another that freed as much before holds it already."""
    working = in_child("tests.benchmarks.test_measuring:working_bytes_of_64_mb")
    assert 60 * MB < working < 80 * MB


def test_memory_of_a_parent_is_not_counted_as_its_childs():
    """`ru_maxrss` is handed down through fork: the first draft measured its own parent."""
    held = bytearray(b"\x01") * (256 * MB)
    peak = in_child("benchmarks.measuring:peak_bytes")
    assert len(held) == 256 * MB
    assert 1 * MB < peak < 128 * MB


def test_a_child_that_fails_is_told(capfd):
    with pytest.raises(NotMeasuredError, match="status 1"):
        in_child("benchmarks.measuring:no_such_function")
    assert "no_such_function" in capfd.readouterr().err
