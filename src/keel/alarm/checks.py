"""Checks an alarm's assumptions on the conversations that it was calibrated on.

A suffix `_C` counts conversations, `_N` turns of all of them. Levels are in gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from keel.alarm.conversations import ConversationMeans
from keel.alarm.value import Alarm, FitCheck
from keel.statistics import Floats, Variance, exact_rate_interval, jackknifed
from keel.types import Interval
from keel.words import percent, signed, tenths

_DRAWS = 500
_SHORT, _LONG = 16, 64
"""Tokens that part short answers, answers and long answers."""
_LOW_SHARE = 0.05
_HARMLESS = 0.4
"""Autocorrelation of turns up to which the mixture's rate held in simulation; tuned thresholds are
of independent turns."""


def checks_of(
    alarm: Alarm, conversations: Sequence[ConversationMeans], alarmed: Sequence[bool], advised: int
) -> tuple[FitCheck, ...]:
    """One check per assumption, in a line; `alarmed` are held-out verdicts."""
    return (
        _number(conversations, advised),
        _rate("held-out rate", alarm, alarmed),
        _lag(alarm, conversations),
        _tail(alarm, conversations),
        *_by_length(alarm, conversations),
        *_by_group(alarm, conversations, alarmed),
    )


def _number(conversations: Sequence[ConversationMeans], advised: int) -> FitCheck:
    count = len(conversations)
    return FitCheck(
        "conversations",
        f"{count}, {advised} are advised: with fewer the alarm is widened and detects less",
        count >= advised,
    )


def _rate(name: str, alarm: Alarm, alarmed: Sequence[bool]) -> FitCheck:
    share = exact_rate_interval(sum(alarmed), len(alarmed))
    return FitCheck(
        name,
        f"{sum(alarmed)} of {len(alarmed)} alarmed (95 %: {share.bounds(tenths)}), "
        f"{tenths(alarm.rate)} by design",
        share.low <= alarm.rate,
    )


def _lag(alarm: Alarm, conversations: Sequence[ConversationMeans]) -> FitCheck:
    lag = lag_interval(alarm, conversations)
    harmless = _HARMLESS if alarm.statistic == "mixture" else 0.0
    return FitCheck(
        "neighbouring turns",
        f"lag-1 autocorrelation {signed(lag.value)} (95 %: {lag.bounds(signed)}); the rate "
        f"of {alarm.statistic} holds up to {harmless:g}",
        bool(lag.low <= 0 or lag.high <= harmless),
    )


def lag_interval(alarm: Alarm, conversations: Sequence[ConversationMeans]) -> Interval:
    """Correlation of a turn with the next, levels of turns and conversations removed.

    What independent turns show of it, -1/T in a conversation of T turns, is added back. The
    interval is Student's with the jackknife's variance over conversations (Efron and Stein 1981,
    Annals of Statistics 9:586), whose degrees of freedom are of as many conversations as theirs
    are worth that weigh differently (Kish 1965, Survey Sampling, section 11.7).
    """
    products_C, squares_C = np.zeros(len(conversations)), np.zeros(len(conversations))
    for number, each in enumerate(conversations):
        fall_T = np.array([alarm.expected_at(t.turn) - alarm.in_gaps(t.mean) for t in each.turns])
        left_T = fall_T - fall_T.mean()
        squares_C[number] = float((left_T**2).sum())
        products_C[number] = float((left_T[1:] * left_T[:-1]).sum()) + squares_C[number] / len(
            left_T
        )
    products, squares = products_C.sum(), max(squares_C.sum(), 1e-12)
    without_C = (products - products_C) / np.maximum(squares - squares_C, 1e-12)
    worth = squares**2 / max((squares_C**2).sum(), 1e-24)
    variance = Variance(jackknifed([without_C]).value, max(1.0, worth - 1))
    return variance.interval(float(products / squares))


def _tail(alarm: Alarm, conversations: Sequence[ConversationMeans]) -> FitCheck:
    """Falls against those of conversations drawn from the alarm, quantile by quantile."""
    turns = [(n, turn) for n, each in enumerate(conversations) for turn in each.turns]
    of_N = np.array([n for n, _ in turns])
    noise_N = np.array([alarm.token**2 / turn.tokens for _, turn in turns]) + alarm.within**2
    scale_N = np.sqrt(alarm.between**2 + noise_N)
    seen_N = np.sort(_deviations(alarm, conversations))
    rng = np.random.default_rng(0)
    drawn = rng.normal(0, alarm.between, (_DRAWS, len(conversations)))[:, of_N]
    drawn = drawn + np.sqrt(noise_N) * rng.normal(size=(_DRAWS, len(turns)))
    drawn = np.sort(drawn / scale_N, axis=1)
    usual_N = drawn.mean(axis=0)
    upper = slice(len(turns) // 2, None)
    gap = float((seen_N - usual_N)[upper].max())
    usual = float(np.quantile((drawn - usual_N)[:, upper].max(axis=1), 0.95))
    return FitCheck(
        "large falls",
        f"at most {gap:.2f} standard deviations beyond the normal quantile (by chance up to "
        f"{usual:.2f})",
        gap <= usual,
    )


def _deviations(alarm: Alarm, conversations: Sequence[ConversationMeans]) -> Floats:
    """Falls below the expected level in standard deviations, turn by turn."""
    return np.array(
        [
            (alarm.expected_at(turn.turn) - alarm.in_gaps(turn.mean))
            / np.sqrt(alarm.between**2 + alarm.within**2 + alarm.token**2 / turn.tokens)
            for each in conversations
            for turn in each.turns
        ]
    )


def _by_length(alarm: Alarm, conversations: Sequence[ConversationMeans]) -> Iterator[FitCheck]:
    """How many turns of each length lie lower than all but 5 % by the alarm's own model."""
    from scipy.stats import norm

    is_low_N = _deviations(alarm, conversations) > norm.isf(_LOW_SHARE)
    tokens_N = np.array([turn.tokens for each in conversations for turn in each.turns])
    is_short_N, is_long_N = tokens_N < _SHORT, tokens_N >= _LONG
    for name, is_chosen_N in (
        (f"turns under {_SHORT} tokens", is_short_N),
        (f"turns of {_SHORT} to {_LONG - 1} tokens", ~is_short_N & ~is_long_N),
        (f"turns of {_LONG} tokens or more", is_long_N),
    ):
        count, low = int(is_chosen_N.sum()), int(is_low_N[is_chosen_N].sum())
        if count:
            share = exact_rate_interval(low, count)
            yield FitCheck(
                name,
                f"{low} of {count} lower than all but {percent(_LOW_SHARE)} "
                f"(95 %: {share.bounds(tenths)})",
                share.low <= _LOW_SHARE,
            )


def _by_group(
    alarm: Alarm, conversations: Sequence[ConversationMeans], alarmed: Sequence[bool]
) -> Iterator[FitCheck]:
    """Held-out alarms by system prompt, where there are several."""
    if len({each.group for each in conversations}) < 2:
        return
    pairs = sorted(zip([each.group for each in conversations], alarmed, strict=True))
    for group, members in groupby(pairs, key=lambda pair: pair[0]):
        yield _rate(f"held-out rate, {group}", alarm, [is_alarm for _, is_alarm in members])
