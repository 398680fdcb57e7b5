"""Fitting an alarm to conversations with known parameters."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from keel.alarm import Alarm, ConversationMeans, FitCheck, TurnMean, estimated, fit_alarm
from keel.alarm.checks import lag_interval
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


def checked(alarm: Alarm) -> dict[str, FitCheck]:
    return {check.name: check for check in alarm.fit.checks}


def bent(talks, change) -> list[ConversationMeans]:
    """Conversations with every turn's mean moved by `change(conversation, turn, draw)` gaps."""
    draw = np.random.default_rng(9)
    return [
        replace(
            each,
            turns=tuple(
                replace(t, mean=t.mean + TRUTH.gap * change(n, t, draw)) for t in each.turns
            ),
        )
        for n, each in enumerate(talks)
    ]


def test_every_check_holds_of_conversations_as_the_alarm_takes_them():
    """Seven checks at 95 % or wider; with this seed none is off by chance."""
    talks = [replace(e, group=f"prompt {n % 2}") for n, e in enumerate(conversations(200, seed=1))]
    checks = checked(fit_alarm(TRUTH, talks))
    assert [name for name, check in checks.items() if not check.holds] == []
    assert {"neighbouring turns", "large falls", "held-out rate, prompt 1"} <= set(checks)


def test_the_correlation_of_few_conversations_turns_has_an_interval_that_holds():
    """Conversations drawn anew held in 85 of 100."""
    held = 0
    for seed in range(200):
        talks = conversations(10, seed=seed)
        interval = lag_interval(estimated(TRUTH, talks)[0], talks)
        held += interval.low <= 0 <= interval.high
    assert held >= 0.9 * 200


def test_turns_that_go_on_from_each_other_are_said():
    """A random walk within each conversation, .6 gaps a step."""
    talks = conversations(200, seed=6, turns=10)
    steps = np.random.default_rng(3).normal(0, 0.6, (200, 10)).cumsum(axis=1)
    alarm = fit_alarm(TRUTH, bent(talks, lambda n, turn, _: steps[n, turn.turn]))
    assert not checked(alarm)["neighbouring turns"].holds


def test_heavy_tails_of_falls_are_said():
    talks = bent(
        conversations(200, seed=7), lambda n, turn, draw: -3.0 * float(draw.random() < 0.04)
    )
    assert not checked(fit_alarm(TRUTH, talks))["large falls"].holds


def test_a_system_prompt_that_alarms_more_often_is_said():
    talks = [
        replace(each, group="odd" if n % 10 == 0 else "usual")
        for n, each in enumerate(conversations(200, seed=8))
    ]
    talks = bent(talks, lambda n, turn, _: -2.0 * (n % 10 == 0 and turn.turn >= 3))
    checks = checked(fit_alarm(TRUTH, talks))
    assert not checks["held-out rate, odd"].holds
    assert checks["held-out rate, usual"].holds


def test_short_turns_that_lie_lower_than_their_length_explains_are_said():
    talks = bent(conversations(200, seed=9), lambda n, turn, _: -1.5 * (turn.tokens < 16))
    checks = checked(fit_alarm(TRUTH, talks))
    assert not checks["turns under 16 tokens"].holds


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
    assert not checked(alarm)["conversations"].holds


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
