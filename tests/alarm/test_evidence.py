"""Turn by turn: the statistics, the states, and what a conversation carries along."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from keel.alarm import (
    Alarm,
    State,
    advance,
    evidence_paths,
    planted,
    provisional,
    tuned,
)
from keel.errors import CorruptArtifactError, ModelMismatchError, NotFiniteError, UsageError
from keel.settings import STATISTICS
from keel.types import ModelIdentity

IDENTITY = ModelIdentity("tiny", 4, 3)
# The variances of the demo's run: 48 tokens have a noise of .07 gaps².
ALARM = Alarm(
    layer=1,
    direction=torch.tensor([0.0, 1.0, 0.0]),
    zero=-2.0,
    gap=4.0,
    expected=(1.2, 0.6, 0.2),
    between=0.35,
    within=0.45,
    token=1.8,
    identity=IDENTITY,
)


def raw(gaps: float) -> float:
    return ALARM.zero + ALARM.gap * gaps


def evidence_by_matrices(alarm: Alarm, gaps_T, tokens_T) -> float:
    """The mixture written out with covariance matrices."""
    turns = len(gaps_T)
    covariance_TT = np.full((turns, turns), alarm.between**2)
    covariance_TT += np.diag(alarm.within**2 + alarm.token**2 / np.asarray(tokens_T))
    mean_T = np.array([alarm.expected_at(t) for t in range(turns)])
    inverse_TT = np.linalg.inv(covariance_TT)

    def log_density(shift_T):
        left_T = gaps_T - mean_T + shift_T
        return -0.5 * left_T @ inverse_TT @ left_T

    total, left = 0.0, 1.0
    for change in range(turns):
        prior = 0.5 if change == 0 else 0.5 * 0.15 * 0.85 ** (change - 1)
        shift_T = alarm.drop * (np.arange(turns) >= change)
        total += prior * math.exp(log_density(shift_T) - log_density(np.zeros(turns)))
        left -= prior
    return total + left


def test_the_mixture_is_that_of_the_joint_gaussian():
    gaps_T, tokens_T = [1.0, 0.1, -0.3, -0.9, -0.2], [40, 7, 120, 31, 4]
    state = State()
    for turn, (gaps, tokens) in enumerate(zip(gaps_T, tokens_T, strict=True), start=1):
        state, verdict = advance(ALARM, state, raw(gaps), tokens)
        written_out = evidence_by_matrices(ALARM, np.array(gaps_T[:turn]), tokens_T[:turn])
        assert verdict.evidence == pytest.approx(written_out, rel=1e-9)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_turn_by_turn_is_as_all_at_once(statistic):
    alarm = replace(ALARM, statistic="mixture")
    tokens_NT = np.random.default_rng(1).integers(4, 400, (20, 12))
    gaps_NT = planted(alarm, tokens_NT, seed=2, change=5)
    if statistic != "mixture":
        alarm = replace(ALARM, statistic=statistic, thresholds={"0.01": 3.0}, horizon=12)
    at_once_NT = evidence_paths(alarm, gaps_NT, tokens_NT)
    for n in range(20):
        state = State()
        for t in range(12):
            state, verdict = advance(alarm, state, raw(gaps_NT[n, t]), int(tokens_NT[n, t]))
            assert verdict.evidence == pytest.approx(at_once_NT[n, t], rel=1e-7, abs=1e-9)


def test_a_fall_alarms_and_names_the_turn_from_which_on():
    state, verdicts = State(), []
    for gaps in (1.2, 0.6, 0.2, 0.3, -1.2, -1.0, -1.3, -1.1):
        state, verdict = advance(ALARM, state, raw(gaps), 200)
        verdicts.append(verdict)
    states = [verdict.state for verdict in verdicts]
    assert states[:4] == ["ok"] * 4
    assert states[-1] == "alarm"
    assert verdicts[-1].since == 4
    assert [verdict.is_new for verdict in verdicts].count(True) == 1
    assert verdicts[4].gaps == pytest.approx(-1.2)
    assert verdicts[4].expected_gaps == 0.2


def test_an_alarm_stays_for_the_rest_of_the_conversation():
    state = State()
    for gaps in [1.2, 0.6, 0.2] + [-1.5] * 4:
        state, verdict = advance(ALARM, state, raw(gaps), 200)
    assert verdict.state == "alarm"
    for _ in range(20):
        state, verdict = advance(ALARM, state, raw(0.2), 200)
    assert verdict.state == "alarm"
    assert not verdict.is_new


def test_a_turn_of_three_tokens_is_unknown_and_no_evidence():
    state, _before = advance(ALARM, State(), raw(0.9), 50)
    after, verdict = advance(ALARM, state, raw(-9.0), 3)
    assert verdict.state == "unknown"
    assert after.weight == state.weight
    # Less of the prior mass is left for later changes, so evidence may move towards its parts only.
    assert verdict.turn == 1
    assert after.turns == 2
    _, next_verdict = advance(ALARM, after, raw(0.2), 50)
    assert next_verdict.expected_gaps == 0.2


def test_a_turn_without_tokens_has_no_level():
    _, verdict = advance(ALARM, State(), math.nan, 0)
    assert verdict.state == "unknown"
    assert verdict.gaps is None


@pytest.mark.parametrize("gaps", [6.0, -3.0])
def test_levels_far_off_on_either_side_are_foreign(gaps):
    # 4 standard deviations of a long turn are 4 · √(.35² + .45²) = 2.3 gaps from 1.2.
    alarm = replace(ALARM, rate=1e-9)
    _, verdict = advance(alarm, State(), raw(gaps), 1000)
    assert verdict.state == "foreign"


def test_a_provisional_verdict_is_no_alarm_and_leaves_the_state():
    state = State()
    for gaps in (1.2, 0.6, 0.2, -1.4, -1.4):
        state, verdict = advance(ALARM, state, raw(gaps), 200)
    assert verdict.state != "alarm"
    early = provisional(ALARM, state, raw(-4.0), 200)
    _, final = advance(ALARM, state, raw(-4.0), 200)
    assert (early.state, early.is_new, early.is_provisional) == ("watch", False, True)
    assert (final.state, final.is_new) == ("alarm", True)


def test_beyond_the_turns_that_a_tuned_threshold_holds_for_nothing_is_judged():
    alarm = replace(ALARM, statistic="turn", thresholds={"0.01": 3.0}, horizon=2)
    state = State()
    for _ in range(2):
        state, verdict = advance(alarm, state, raw(0.5), 50)
    assert verdict.state != "unknown"
    _, verdict = advance(alarm, state, raw(-5.0), 50)
    assert verdict.state == "unknown"


def test_nan_is_refused():
    with pytest.raises(NotFiniteError, match="turn 1 projects to nan"):
        advance(ALARM, State(), math.nan, 30)


def test_a_state_is_small_and_comes_back_from_its_bytes():
    state = State()
    for turn in range(200):
        state, _ = advance(ALARM, state, raw(0.2 + 0.01 * (turn % 7)), 30)
        if turn == 11:
            assert len(state.to_bytes()) <= 300
    packed = state.to_bytes()
    assert len(packed) <= 700
    assert State.from_bytes(packed) == state
    assert pickle.loads(pickle.dumps(state)) == state
    with pytest.raises(CorruptArtifactError, match="start it anew"):
        State.from_bytes(packed[:-3])
    with pytest.raises(CorruptArtifactError, match="start it anew"):
        State.from_bytes(b"no state")


def test_a_monitor_goes_on_from_its_kept_states():
    whole, first = ALARM.monitor(), ALARM.monitor()
    for turn in range(4):
        for monitor in (whole, first):
            monitor.turn("a", mean=raw(0.1 * turn), tokens=20)
    second = ALARM.monitor()
    second.restore(first.state())
    assert second.turn("a", mean=raw(-1), tokens=20) == whole.turn("a", mean=raw(-1), tokens=20)
    second.forget("a")
    assert second.turn("a", mean=raw(1), tokens=20).turn == 0


def test_conversations_do_not_touch():
    monitor = ALARM.monitor(rate=0.05)
    for _ in range(8):
        low, high = (
            monitor.turn(name, mean=raw(gaps), tokens=100)
            for name, gaps in (("low", -1.0), ("high", 1.0))
        )
    assert (low.state, high.state) == ("alarm", "ok")
    assert low.threshold == pytest.approx(20)


def test_an_alarm_in_the_band_that_is_capped_is_refused():
    ALARM.check_below([2, 3])
    ALARM.check_below([])
    for layers in ([1, 2], [0, 1]):
        with pytest.raises(UsageError, match="every turn stands at its floor"):
            ALARM.check_below(layers)


def test_where_no_layer_lies_below_the_floors_none_is_advised():
    with pytest.raises(UsageError, match="no layer lies below them"):
        ALARM.check_below([0, 1])


def test_an_alarm_of_another_model_is_refused():
    with pytest.raises(ModelMismatchError, match="alarm was made on another model"):
        ALARM.check_model(ModelIdentity("other", 5, 3))


@pytest.mark.parametrize("rate", [0, 0.5, 2, -0.1])
def test_rates_that_are_no_shares_are_refused(rate):
    with pytest.raises(UsageError, match="rate of false alarms"):
        ALARM.monitor(rate=rate)


def test_a_rate_that_a_statistic_was_not_tuned_for_is_refused():
    alarm = replace(ALARM, statistic="glr", thresholds={"0.01": 4.0}, horizon=12)
    with pytest.raises(UsageError, match=r"tuned for the rates 0.01, not for 0.05"):
        alarm.monitor(rate=0.05)


def test_a_tuned_threshold_keeps_its_rate_at_its_horizon():
    """Of 20,000 conversations; 5 % ± .5 % are three standard errors of both draws."""
    glr = replace(ALARM, statistic="glr", rate=0.05, thresholds={"0.05": 1.0}, horizon=1)
    alarm = tuned(glr, horizon=12, tokens=48, seed=3)
    tokens_NT = np.full((20_000, 12), 48)
    paths_NT = evidence_paths(alarm, planted(alarm, tokens_NT, seed=4), tokens_NT)
    rate = float((paths_NT.max(axis=1) >= alarm.threshold()).mean())
    assert rate == pytest.approx(0.05, abs=0.012)
