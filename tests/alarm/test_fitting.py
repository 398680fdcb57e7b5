"""Fitting an alarm to conversations with known parameters."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from keel.alarm import Alarm, ConversationMeans, TurnMean, fit_alarm
from keel.errors import TooFewSamplesError
from keel.types import ModelIdentity

TRUTH = Alarm(
    layer=1,
    direction=torch.tensor([0.0, 1.0, 0.0]),
    zero=-2.0,
    gap=4.0,
    expected=(1.2, 0.6, 0.25, 0.15, 0.1, 0.1),
    between=0.5,
    within=0.4,
    token=1.8,
    identity=ModelIdentity("tiny", 4, 3),
    rate=0.05,
)


def conversations(count: int, *, seed: int = 0, drifted: int = 0, turns: int = 6):
    """Planted conversations with tokens; the first `drifted` stand 3 gaps lower from turn 3 on."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        own = rng.normal(0, TRUTH.between)
        means = []
        for turn in range(turns):
            level = TRUTH.expected_at(turn) + own + rng.normal(0, TRUTH.within)
            level -= 3.0 * (number < drifted and turn >= 2)
            tokens_T = level + TRUTH.token * rng.normal(size=int(rng.integers(8, 120)))
            means.append(TurnMean.of(turn, (TRUTH.zero + TRUTH.gap * tokens_T).tolist()))
        made.append(ConversationMeans(f"c{number}", tuple(means)))
    return made


def test_what_was_planted_comes_back():
    """400 conversations: levels are known to .03, spreads to .02."""
    alarm = fit_alarm(TRUTH, conversations(400))
    assert alarm.expected == pytest.approx(TRUTH.expected, abs=0.12)
    assert alarm.between == pytest.approx(0.5, abs=0.06)
    assert alarm.within == pytest.approx(0.4, abs=0.03)
    assert alarm.token == pytest.approx(1.8, abs=0.1)


def test_held_out_conversations_alarm_at_most_at_the_rate():
    alarm = fit_alarm(TRUTH, conversations(200, seed=1))
    assert alarm.fit.held_out == 200
    assert alarm.fit.held_out_alarms <= 16  # 10 are 5 %; more than 16 come by 2 % chance
    assert alarm.fit.held_out_rate.low <= 0.05
    assert not alarm.fit.warnings


def test_a_few_drifted_conversations_in_the_logs_do_not_blind_the_alarm():
    clean = fit_alarm(TRUTH, conversations(100, seed=2))
    mixed = fit_alarm(TRUTH, conversations(100, seed=2, drifted=5))
    assert mixed.fit.left_out >= 4
    assert mixed.between == pytest.approx(clean.between, abs=0.08)
    assert mixed.within == pytest.approx(clean.within, abs=0.06)
    assert any("stand out" in warning for warning in mixed.fit.warnings)


def test_few_conversations_are_too_few_and_fewer_than_forty_are_said():
    with pytest.raises(TooFewSamplesError, match="9 of 9 conversations have two turns"):
        fit_alarm(TRUTH, conversations(9))
    alarm = fit_alarm(TRUTH, conversations(20))
    assert any("twice" in warning for warning in alarm.fit.warnings)


def test_answers_too_short_to_know_their_noise_are_refused():
    short = [
        ConversationMeans(str(n), tuple(TurnMean.of(t, [float(n + t)] * 6) for t in range(3)))
        for n in range(20)
    ]
    with pytest.raises(TooFewSamplesError, match="16 tokens or more"):
        fit_alarm(TRUTH, short)


def test_later_turns_that_few_reach_are_pooled():
    long, rest = conversations(4, seed=3, turns=12), conversations(60, seed=4, turns=4)
    alarm = fit_alarm(TRUTH, [*long, *rest])
    assert len(alarm.expected) == 5
    assert alarm.expected_at(11) == pytest.approx(0.1, abs=0.6)


def test_a_tuned_statistic_gets_a_threshold_for_its_horizon():
    blank = replace(TRUTH, statistic="glr", thresholds={"0.05": 1.0}, horizon=1)
    alarm = fit_alarm(blank, conversations(60, seed=5), horizon=8)
    assert alarm.horizon == 8
    assert alarm.threshold() > 1.5
