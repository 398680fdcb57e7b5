"""Shares of labels under an arm against unsteered, and rates by where first answers stood."""

import numpy as np
import pytest

from keel.evaluate.summary import label_shifts, rates_by_projection
from keel.statistics import Clusters


def alone(count: int) -> Clusters:
    return Clusters.of([{}] * count)


def test_a_label_shifts_by_the_difference_of_its_shares():
    """faith 10 of 40 → 30 of 40: +0.5; care the other way; service is said by nobody."""
    plain = ["faith"] * 10 + ["care"] * 30
    steered = ["faith"] * 30 + ["care"] * 10
    found = label_shifts(steered, plain, ["care", "faith", "service"], alone(40))
    assert list(found) == ["care", "faith"]
    assert found["faith"].value == pytest.approx(0.5)
    assert found["care"].value == pytest.approx(-0.5)
    assert found["faith"].low > 0 > found["care"].high


def test_items_that_one_arm_left_unjudged_are_left_out_of_both():
    """Of the two items judged twice, one turned from care to faith: +1/2."""
    plain = ["care", "care", "faith", None]
    steered = ["faith", "care", None, "faith"]
    found = label_shifts(steered, plain, ["care", "faith"], alone(4))
    assert found["faith"].value == pytest.approx(0.5)


def test_shifts_of_all_labels_sum_to_nothing():
    chance = np.random.default_rng(0)
    names = ["a", "b", "c"]
    plain, steered = (list(chance.choice(names, 50)) for _ in range(2))
    found = label_shifts(steered, plain, names, alone(50))
    assert sum(one.value for one in found.values()) == pytest.approx(0)


def test_bins_hold_as_many_answers_each_and_go_up_the_axis():
    """40 answers in 4 bins of 10; the lower half all harmful, the upper half not."""
    places_N = np.random.default_rng(0).permutation(np.arange(40.0))
    values_N = (places_N < 20).astype(float)
    found = rates_by_projection(places_N, values_N, alone(40))
    assert [one.n for one in found] == [10, 10, 10, 10]
    assert [one.rate.value for one in found] == [1, 1, 0, 0]
    assert [one.low for one in found] == sorted(one.low for one in found)
    assert (found[0].low, found[-1].high) == (0, 39)
    assert found[0].unit == "raw"


def test_ends_are_told_in_gap_units_where_they_are_known():
    places_N, values_N = np.arange(20.0), np.zeros(20)
    found = rates_by_projection(places_N, values_N, alone(20), in_gaps=lambda raw: raw / 19)
    assert (found[0].low, found[-1].high, found[0].unit) == (0, 1, "gaps")


def test_answers_that_are_not_known_are_in_no_bin():
    places_N, values_N = np.arange(30.0), np.ones(30)
    places_N[3], values_N[7] = np.nan, np.nan
    assert sum(one.n for one in rates_by_projection(places_N, values_N, alone(30))) == 28


def test_places_that_are_all_alike_make_one_bin_and_few_answers_none():
    assert len(rates_by_projection(np.ones(30), np.ones(30), alone(30))) <= 1
    assert rates_by_projection(np.arange(19.0), np.ones(19), alone(19)) == ()
