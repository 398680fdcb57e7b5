"""Levels over people: intervals that hold, differences over neutral conversations, variance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest

from keel.studies import (
    TurnPoint,
    arm_differences,
    conversation_paths,
    domain_paths,
    person_interval,
    variance_shares,
)
from keel.types import NEUTRAL_DOMAIN
from tests.studies.worlds import talk


def points(
    level: Callable[[str, str, int], float], *, people: int = 5, turns: int = 4, arm: str = "none"
) -> list[TurnPoint]:
    """One conversation for each person of `therapy`, and as many neutral ones."""
    return [
        TurnPoint(arm, domain, person, person, turn, value, value, value, 9, "so")
        for domain in ("therapy", NEUTRAL_DOMAIN)
        for person in (f"{domain}-{n}" for n in range(people))
        for turn in range(turns)
        for value in [level(domain, person, turn)]
    ]


def test_a_fall_that_neutral_conversations_share_is_none_over_them():
    """Both fall by .3 a turn, therapy from .5 lower: so it lies −.5 over them at every turn."""
    chance = np.random.default_rng(1)

    def level(domain: str, person: str, turn: int) -> float:
        return 1 - 0.5 * (domain == "therapy") - 0.3 * turn + 0.01 * chance.standard_normal()

    therapy, neutral = domain_paths(points(level))[:2]
    assert therapy.slope is not None
    assert therapy.slope.value == pytest.approx(-0.3, abs=0.02)
    assert therapy.slope_over_neutral is not None
    assert therapy.slope_over_neutral.low < 0 < therapy.slope_over_neutral.high
    assert [d.value for d in therapy.over_neutral] == pytest.approx([-0.5] * 4, abs=0.03)
    assert neutral.over_neutral == ()


def test_intervals_of_domain_means_cover_with_five_people():
    """Person sd .5, conversation sd .4, turn sd .4. Of 200 planted studies, 95 % should cover the
    true 0; below 90 % by chance: 0.2 %."""
    chance = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        person = np.repeat(0.5 * chance.standard_normal(5), 2)
        values = person + 0.4 * chance.standard_normal(10) + 0.4 * chance.standard_normal(10)
        interval = person_interval(values, [f"p{n // 2}" for n in range(10)])
        covered += interval.low <= 0 <= interval.high
    assert covered >= 180


def test_each_person_counts_once():
    """Person a: mean of 0 and 2; person b: 4. (1 + 4) / 2."""
    assert person_interval(np.array([0.0, 2.0, 4.0]), ["a", "a", "b"]).value == 2.5


def test_of_a_single_person_there_is_no_interval():
    interval = person_interval(np.array([1.0, 3.0]), ["a", "a"])
    assert (interval.value, interval.low, interval.high) == (2.0, -inf, inf)


def test_conversations_that_stay_to_the_end_are_a_path_of_their_own():
    """Ten people; those of the higher half stop after two turns."""

    def level(domain: str, person: str, turn: int) -> float:
        return float(person[-1] in "56789")

    talks = [p for p in points(level, people=20) if p.turn < 2 or p.with_history == 0]
    path = domain_paths(talks)[0]
    assert path.counts == (20, 20, 10, 10)
    assert [round(mean.value, 2) for mean in path.levels] == [0.5, 0.5, 0.0, 0.0]
    assert [mean.value for mean in path.cohort] == [0.0] * 4


def test_turns_that_fewer_than_ten_conversations_reach_are_left_out():
    talks = [p for p in points(lambda *given: 1.0, people=12) if p.turn < 3 or p.person[-1] == "1"]
    assert domain_paths(talks)[0].counts == (12, 12, 12)


def test_an_empty_answer_on_the_way_does_not_end_its_domain_s_path():
    """One of 921 answers was empty, and of 59 turns a page showed the first 12."""

    def level(domain: str, person: str, turn: int) -> float:
        return nan if (person, turn) == ("therapy-1", 2) else 1.0 * turn

    for people, counts in ((2, (2, 2, 1, 2, 2)), (12, (12, 12, 11, 12, 12))):
        path = domain_paths(points(level, people=people, turns=5))[0]
        assert (path.domain, path.counts) == ("therapy", counts)
        assert [mean.value for mean in path.levels] == [0, 1, 2, 3, 4]


def test_a_path_ends_before_a_turn_that_nobody_has_a_level_at():
    path = domain_paths(points(lambda domain, person, turn: nan if turn == 2 else 1.0, turns=5))[0]
    assert path.counts == (5, 5)


def test_arms_are_compared_conversation_by_conversation():
    """The second arm lies .4 higher in each conversation, however far these lie apart."""
    first = points(lambda domain, person, turn: float(person[-1]))
    second = points(lambda domain, person, turn: float(person[-1]) + 0.4, arm="capped")
    therapy = arm_differences([*first, *second])[0]
    assert therapy.last_turn.value == pytest.approx(0.4)
    assert therapy.last_turn.high - therapy.last_turn.low < 1e-6


def test_shares_of_variance_are_recovered():
    """Variances 1 between domains, .5 people, .25 conversations, .25 turns; 4 domains say little of
    the first, so that the others are held against each other."""
    chance = np.random.default_rng(3)
    known: dict[str, float] = {}

    def effect(name: str, sd: float) -> float:
        return known.setdefault(name, sd * chance.standard_normal())

    made = []
    for number in range(400):
        person = number // 4
        for turn in range(6):
            value = effect(f"person {person}", 0.5**0.5) + effect(f"talk {number}", 0.5)
            value += 0.5 * chance.standard_normal() + person % 4
            domain, who, what = f"d{person % 4}", f"p{person}", f"c{number}"
            made.append(TurnPoint("none", domain, who, what, turn, value, value, value, 9, "so"))
    shares = variance_shares(made, "none")
    assert shares is not None
    within = 1 - shares.domains
    assert shares.people / within == pytest.approx(0.5, abs=0.12)
    assert shares.conversations / within == pytest.approx(0.25, abs=0.08)
    assert shares.turns / within == pytest.approx(0.25, abs=0.08)


def test_with_a_single_conversation_each_there_are_no_shares_of_variance():
    made = talk(lambda *given: 1.0, topics=1)
    assert variance_shares(made, "none") is None


def test_a_conversation_keeps_its_own_levels_beside_its_domains_mean():
    one, *_ = conversation_paths(points(lambda _d, _p, turn: nan if turn == 1 else 1.0 * turn))
    assert (one.arm, one.conversation, one.domain) == ("none", "therapy-0", "therapy")
    assert one.levels == (0.0, None, 2.0, 3.0)


def test_coordinates_along_components_are_paths_of_their_own():
    given = [replace(point, along=(2.0, -1.0)) for point in points(lambda *_: 0.0)]
    paths = {(p.domain, p.reading): p for p in domain_paths(given)}
    assert [level.value for level in paths["therapy", "along PC2"].levels] == [-1.0] * 4
    assert not [p for p in domain_paths(points(lambda *_: 0.0)) if p.reading.startswith("along")]
