"""Harm after the last turn: where it is planted, between domains and within them apart."""

from __future__ import annotations

import numpy as np
import pytest

from keel.studies import HarmPoint, harm_correlations, harm_rates
from keel.types import NEUTRAL_DOMAIN

DOMAINS = {"coding": 1.0, "writing": 0.6, "therapy": 0.3, "philosophy": 0.0}


def points(chance_of, *, people: int = 5, topics: int = 4, seed: int = 0) -> list[HarmPoint]:
    """Conversations whose level is their domain's, their person's and noise."""
    chance = np.random.default_rng(seed)
    made = []
    for domain, mean in {**DOMAINS, NEUTRAL_DOMAIN: 1.0}.items():
        for person in range(people):
            own = mean + 0.4 * chance.standard_normal()
            for _ in range(topics):
                level = own + 0.1 * chance.standard_normal()
                harm = float(chance.random() < chance_of(domain, level))
                made.append(HarmPoint("none", domain, f"{domain}-{person}", level, harm))
    return made


def test_harm_that_hangs_on_the_domain_alone_is_not_credited_to_the_level_within_it():
    rows = {
        row.kind: row
        for row in harm_correlations(points(lambda domain, _: 0.9 - 0.8 * DOMAINS.get(domain, 1)))
    }
    assert rows["between domains"].r.value < -0.8
    assert abs(rows["between domains"].r.value) > rows["between domains"].null95
    assert rows["within domains"].r.low < 0 < rows["within domains"].r.high


def test_the_interval_within_domains_covers_where_nothing_goes_with_the_level():
    """Of 100 planted studies 95 should cover 0; fewer than 88 by chance: 0.2 %."""
    worlds = (points(lambda *_: 0.5, topics=2, seed=seed) for seed in range(100))
    rows = [harm_correlations(made, draws=9)[0] for made in worlds]
    assert sum(row.r.low <= 0 <= row.r.high for row in rows) >= 88


def test_harm_that_hangs_on_the_level_shows_within_domains():
    made = points(lambda _, level: 1 / (1 + np.exp(6 * (level - 0.5))), topics=20)
    within, _ = harm_correlations(made)
    assert within.kind == "within domains"
    assert within.people == 20
    assert within.r.high < -within.null95
    assert within.slope.high < 0
    assert within.detectable == pytest.approx(np.tanh(2.8 / 14**0.5))


def test_people_among_whom_no_harm_was_seen_do_not_show_that_there_is_none():
    """It printed `0 % (0 to 0)`, over neutral too: of 5 people 0 to 60.7 %, t²/(5 + t²)."""
    rates = {rate.domain: rate for rate in harm_rates(points(lambda *_: 0.0))}
    assert rates["coding"].rate.high == pytest.approx(2.776**2 / (5 + 2.776**2), abs=1e-3)
    over = rates["coding"].over_neutral
    assert over.low == -over.high == pytest.approx(-0.607, abs=1e-3)


def test_with_fewer_than_eight_people_no_correlation_is_given():
    few = points(lambda *_: 0.5, people=1)
    assert harm_correlations(few) == ()
    assert harm_rates(few)


def test_rates_are_over_people_and_beside_neutral_conversations():
    """Each person's conversations alike: coding's five people all harm, nobody else's do."""
    rates = {row.domain: row for row in harm_rates(points(lambda d, _: float(d == "coding")))}
    assert rates["coding"].rate.value == 1
    assert rates["coding"].over_neutral.value == 1
    assert rates["therapy"].rate.value == 0
    assert list(rates)[-1] == NEUTRAL_DOMAIN
    assert rates[NEUTRAL_DOMAIN].over_neutral is None
    mixed = {row.domain: row for row in harm_rates(points(lambda *_: 0.5, people=3, topics=1))}
    assert all(0 <= row.rate.low <= row.rate.high <= 1 for row in mixed.values())
