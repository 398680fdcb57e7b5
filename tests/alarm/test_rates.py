"""How often the alarm is wrong, and what it detects, in 20,000 planted conversations each.

Seeds are fixed; the standard error of a rate of 5 % is .0015, of one of 1 % .0007, of a share
near one half .0035. Tolerances of .03 are those of the published table, itself known to .02.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from keel.alarm import Alarm, detection, evidence_paths, planted
from keel.types import ModelIdentity

COUNT, TURNS = 20_000, 12
# Levels of the demo's run: 48 tokens have a noise of .07 gaps², a role stands 1 gap lower.
ALARM = Alarm(
    layer=1,
    direction=torch.tensor([0.0, 1.0, 0.0]),
    zero=0.0,
    gap=1.0,
    expected=(1.0,),
    between=0.35,
    within=0.45,
    token=1.8,
    identity=ModelIdentity("tiny", 4, 3),
    drop=1.0,
)
TOKENS_NT = np.full((COUNT, TURNS), 48)


@pytest.mark.parametrize("expected", [(1.0,), (1.2, 0.6, 0.2, 0.15, 0.1)], ids=["level", "falling"])
def test_at_most_the_rate_of_conversations_of_any_length_alarms(expected):
    """Ville's bound, for conversations of 1 to 60 turns of 4 to 400 tokens."""
    alarm = replace(ALARM, expected=expected, drop=0.8)
    tokens_NT = np.random.default_rng(1).integers(4, 401, (COUNT, 60))
    highest_NT = np.maximum.accumulate(
        evidence_paths(alarm, planted(alarm, tokens_NT, seed=2), tokens_NT), axis=1
    )
    for rate in (0.05, 0.01):
        for length in (1, 2, 8, 32, 60):
            share = float((highest_NT[:, length - 1] >= 1 / rate).mean())
            assert share <= rate + 3 * np.sqrt(rate * (1 - rate) / COUNT)


def test_a_level_that_is_the_same_at_every_turn_raises_more_alarms_than_the_rate():
    """Neutral conversations fall from 1.2 to .1 gaps; taken for drift, that alarms."""
    truth = replace(ALARM, expected=(1.2, 0.6, 0.2, 0.15, 0.1), drop=0.8)
    constant = replace(truth, expected=(1.2,))
    gaps_NT = planted(truth, TOKENS_NT, seed=3)
    highest_N = evidence_paths(constant, gaps_NT, TOKENS_NT).max(axis=1)
    assert float((highest_N >= 1 / 0.05).mean()) > 0.5


def test_the_share_of_false_alarms_at_short_turns_is_at_most_twice_theirs_of_turns():
    alarm = replace(ALARM, drop=0.8)
    rng = np.random.default_rng(5)
    tokens_NT = np.clip(np.round(np.exp(rng.normal(np.log(48), 0.7, (COUNT, TURNS)))), 4, 400)
    tokens_NT = tokens_NT.astype(np.int64)
    over_NT = evidence_paths(alarm, planted(alarm, tokens_NT, seed=6), tokens_NT) >= 1 / 0.05
    alarmed_N = over_NT.any(axis=1)
    first_N = tokens_NT[alarmed_N, over_NT[alarmed_N].argmax(axis=1)]
    assert alarmed_N.sum() > 100
    assert float((first_N < 16).mean()) <= 2 * float((tokens_NT < 16).mean())


def changed(change: int) -> np.ndarray:
    """Conversations that stand at a role's level from a turn on, 0 ± .4 between conversations,
    whatever their own level was before."""
    rng = np.random.default_rng(7)
    own_N1, new_N1 = rng.normal(size=(2, COUNT, 1))
    spread_NT = rng.normal(size=(COUNT, TURNS)) * np.sqrt(0.45**2 + 1.8**2 / TOKENS_NT)
    gaps_NT = 1.0 + 0.35 * own_N1 + spread_NT
    gaps_NT[:, change:] = (0.4 * new_N1 + spread_NT)[:, change:]
    return gaps_NT


@cache
def threshold(statistic: str, rate: float) -> float:
    """Tuned exactly, so that statistics are compared at the same rate."""
    alarm = with_statistic(statistic)
    paths_NT = evidence_paths(alarm, planted(alarm, TOKENS_NT, seed=8), TOKENS_NT)
    return float(np.quantile(paths_NT.max(axis=1), 1 - rate))


def with_statistic(statistic: str) -> Alarm:
    if statistic == "mixture":
        return ALARM
    return replace(ALARM, statistic=statistic, thresholds={"0.01": 1.0}, horizon=TURNS)


def detected(statistic: str, change: int, at: float) -> tuple[float, float]:
    """Shares detected by the end, and within three turns."""
    paths_NT = evidence_paths(with_statistic(statistic), changed(change), TOKENS_NT)
    over_NT = paths_NT >= at
    after_NT = over_NT[~over_NT[:, :change].any(axis=1), change:]
    return float(after_NT.any(axis=1).mean()), float(after_NT[:, :3].any(axis=1).mean())


@pytest.mark.parametrize(
    ("statistic", "change", "rate", "by_end", "within_3"),
    [
        ("mixture", 5, 0.05, 0.73, 0.50),
        ("mixture", 5, 0.01, 0.61, 0.35),
        ("glr", 5, 0.05, 0.75, 0.56),
        ("glr", 5, 0.01, 0.65, 0.42),
        ("turn", 5, 0.05, 0.56, 0.37),
        ("ewma", 5, 0.05, 0.65, 0.38),
        ("cusum", 5, 0.05, 0.69, 0.39),
        ("page", 5, 0.05, 0.68, 0.33),
        ("mixture", 0, 0.05, 0.72, 0.50),
        ("mixture", 0, 0.01, 0.53, 0.26),
        ("turn", 0, 0.05, 0.67, 0.36),
        ("ewma", 0, 0.05, 0.76, 0.38),
        ("cusum", 0, 0.05, 0.79, 0.38),
        ("page", 0, 0.05, 0.80, 0.30),
        ("fall", 0, 0.05, 0.04, 0.01),
    ],
)
def test_detection_is_as_in_the_table(statistic, change, rate, by_end, within_3):
    shares = detected(statistic, change, threshold(statistic, rate))
    assert shares == pytest.approx((by_end, within_3), abs=0.03)


def test_untuned_the_mixture_detects_as_in_the_table():
    assert detected("mixture", 5, 1 / 0.05) == pytest.approx((0.66, 0.41), abs=0.03)
    assert detected("mixture", 5, 1 / 0.01) == pytest.approx((0.53, 0.25), abs=0.03)
    assert detected("mixture", 0, 1 / 0.05) == pytest.approx((0.59, 0.33), abs=0.03)
    assert detected("mixture", 0, 1 / 0.01) == pytest.approx((0.34, 0.12), abs=0.03)


def test_a_smaller_rate_detects_less_and_later():
    often, seldom = (detection(replace(ALARM, rate=rate), tokens=48) for rate in (0.05, 0.01))
    assert often.share > seldom.share
    assert often.delay_turns < seldom.delay_turns
