"""Which setting is chosen: the closest to the default, not the strongest; the cheaper of equals."""

from __future__ import annotations

from random import Random

import pytest
import torch
from scipy.stats import wasserstein_distance

from keel.calibrate.choosing import choose_setting, distance, distance_interval
from keel.types import Floor, Floors, Interval, PricedSetting

CHANCE = Random(0)
DEFAULT = tuple(CHANCE.gauss(1.0, 0.3) for _ in range(24))
"""Mean projections of the default's own answers, in gaps."""
ROLES = tuple(CHANCE.gauss(0.0, 0.3) for _ in range(24))


def setting(name: str, rise: float, kl: float, give: float = 0.005) -> PricedSetting:
    """A setting that raises every role answer by so much, at a price give or take something."""
    floors = Floors((Floor(0, torch.tensor([1.0, 0.0]), 0.0),), name)
    price = Interval(kl, kl - give, kl + give)
    raised = tuple(gap + rise for gap in ROLES)
    return PricedSetting(
        floors, 75.0, {0: 0.5}, {0: 0.5}, kl, kl, rise, price=price, role_gaps=raised
    )


def chosen(*settings: PricedSetting, bound: float = 0.1) -> str:
    return choose_setting(settings, bound, DEFAULT).name


def test_the_setting_closest_to_the_default_is_chosen_not_the_strongest():
    """By effect alone the last one won: past the default's own mean by two thirds of a gap."""
    tried = setting("short", 0.3, 0.02), setting("at it", 1.0, 0.04), setting("past", 1.7, 0.08)
    assert chosen(*tried) == "at it"


def test_a_setting_at_the_bound_is_not_taken_on_whichever_side_a_cpu_rounds_it():
    """0.096 on one machine, 0.1004 on another, each give or take 0.01."""
    for kl in (0.096, 0.1004):
        tried = setting("safe", 0.4, 0.03), setting("at the bound", 1.0, kl, give=0.01)
        assert chosen(*tried) == "safe"


def test_a_price_whose_interval_ends_under_the_bound_is_accepted():
    assert chosen(setting("weak", 0.4, 0.03), setting("close", 1.0, 0.09, give=0.009)) == "close"


def test_of_settings_that_cannot_be_told_apart_the_cheaper_is_chosen():
    """They differ by 0.02 gaps, where answers spread by 0.3."""
    assert chosen(setting("closest", 1.0, 0.08), setting("as close", 0.98, 0.02)) == "as close"


def test_a_cheaper_setting_that_stays_clearly_farther_is_not_chosen():
    assert chosen(setting("closest", 1.0, 0.08), setting("half way", 0.5, 0.02)) == "closest"


def test_the_cheapest_is_chosen_where_all_are_too_dear():
    assert chosen(setting("dear", 1.0, 0.5), setting("dearer", 1.0, 0.7)) == "dear"


def test_an_old_setting_without_an_interval_is_held_to_its_price():
    old = PricedSetting(
        setting("old", 1.0, 0.09).floors, 75.0, {}, {}, 0.09, 0.09, 1.0, role_gaps=DEFAULT
    )
    assert chosen(old, setting("dear", 1.0, 0.2)) == "old"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.0, 1.0), (0.0, 3.0), 1.0),  # the upper one moves by 2
        ((1.0, 0.0), (3.0, 0.0), 1.0),  # in whatever order
        ((0.0,), (0.0, 2.0), 1.0),  # half of it moves by 2
        ((2.0, 2.0), (1.0, 1.0), 1.0),  # past it is as far as short of it
        ((0.0, 0.0), (-1.0, 1.0), 1.0),  # bunched at its mean is not like it
    ],
)
def test_the_distance_is_how_far_answers_have_to_move_on_average(first, second, expected):
    assert distance(first, second) == pytest.approx(expected)
    assert distance(first, second) == pytest.approx(wasserstein_distance(first, second))


def test_the_interval_holds_the_distance_and_shrinks_with_more_answers():
    few, many = (distance_interval(ROLES[:n], DEFAULT[:n]) for n in (6, 24))
    assert few.low <= distance(ROLES[:6], DEFAULT[:6]) <= few.high
    assert many.high - many.low < few.high - few.low
