"""Fits an alarm to conversations of the default, and tests it on conversations held out of the fit.

A suffix `_C` counts conversations. Levels are in gaps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from keel.alarm.checks import checks_of
from keel.alarm.conversations import BLOCKS, ConversationMeans
from keel.alarm.evidence import State, advance
from keel.alarm.planted import detection, tuned
from keel.alarm.value import FEWEST_TOKENS, Alarm, AlarmFit
from keel.errors import TooFewSamplesError, UsageError
from keel.statistics import exact_rate_interval
from keel.types import TurnLevels

Floats = NDArray[np.float64]

FEWEST_CONVERSATIONS, ADVISED = 10, 40
"""Conversations without which there is no alarm, and below which it detects clearly less."""
_FEWEST_BLOCKED, _FEWEST_AT_TURN = 10, 10
_OUTLIER = 3.5
"""Robust standard deviations from which on a conversation gets no weight."""
_MOST_LEFT_OUT = 0.1
_MAD = 1.4826
_FOLDS = 5
_LEAST_SHARE = 0.05
_LOOKS, _LOOKS_TUNED = 8, 150
"""A conversation is looked at after every turn: so many times rarer than the rate a single look
must be wrong, by simulation of 12 turns. The mixture at 1 / rate is wrong less often than the rate,
and needs less."""


def fit_alarm(
    blank: Alarm,
    conversations: Sequence[ConversationMeans],
    *,
    source: str = "",
    horizon: int = 12,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Alarm:
    """The alarm fitted to conversations of the default.

    Of `blank` layer, direction, scale, rate, statistic and identity are kept. Conversations that
    stand out from the others, at most a tenth, get no weight. Tried on every conversation by a
    fit to the others. Raises TooFewSamplesError for fewer than 10 conversations of two turns.
    """
    judged = (
        replace(each, turns=tuple(t for t in each.turns if t.tokens >= FEWEST_TOKENS))
        for each in conversations
    )
    usable = [each for each in judged if len(each.turns) >= 2]
    if len(usable) < FEWEST_CONVERSATIONS:
        raise TooFewSamplesError(
            f"{len(usable)} of {len(conversations)} conversations have two turns of "
            f"{FEWEST_TOKENS} tokens or more, expected {FEWEST_CONVERSATIONS} at least, {ADVISED} "
            "are advised; give more logs, or simulate: keel drift calibrate RUN --simulate 100"
        )
    alarm, left_out = estimated(blank, usable, horizon=horizon)
    alarmed = [False] * len(usable)
    for fold in range(_FOLDS):
        others = [each for n, each in enumerate(usable) if n % _FOLDS != fold]
        trial = estimated(blank, others, horizon=horizon)[0]
        alarmed[fold::_FOLDS] = [_alarms(trial, each) for each in usable[fold::_FOLDS]]
        on_progress("trying the alarm", fold + 1, _FOLDS)
    alarms = sum(alarmed)
    tokens = [turn.tokens for each in usable for turn in each.turns]
    expected = detection(alarm, tokens=int(np.median(tokens)))
    fit = AlarmFit(
        conversations=len(usable),
        turns=len(tokens),
        tokens=sum(tokens),
        left_out=left_out,
        held_out=len(usable),
        held_out_alarms=alarms,
        held_out_rate=exact_rate_interval(alarms, len(usable)),
        detection=expected.share,
        delay_turns=expected.delay_turns,
        source=source,
        warnings=tuple(_warnings(alarm, usable, left_out)),
        checks=checks_of(alarm, usable, alarmed, ADVISED),
    )
    return replace(alarm, fit=fit)


def turn_levels(
    blank: Alarm, conversations: Sequence[ConversationMeans], *, source: str = ""
) -> TurnLevels:
    """Mean and spread of levels by turn, robust to conversations that stand out.

    Levels are at the layer of `blank`; turns that few conversations reach are pooled with all later
    ones.

    Raises TooFewSamplesError without two conversations.
    """
    if len(conversations) < 2:
        raise TooFewSamplesError(
            f"{len(conversations)} conversation, expected 2 or more to know levels by turn; give "
            "more logs"
        )
    expected = _expected(blank, conversations, np.median)
    kept = _without_outliers(blank, conversations, expected)
    means = _expected(blank, kept, np.mean)
    last = len(means) - 1
    by_turn: list[list[float]] = [[] for _ in means]
    reached = [0] * len(means)
    for each in kept:
        for turn in each.turns:
            by_turn[min(turn.turn, last)].append(blank.in_gaps(turn.mean))
        for number in {min(turn.turn, last) for turn in each.turns}:
            reached[number] += 1
    spreads = tuple(float(np.std(there, ddof=1)) if len(there) > 1 else 0.0 for there in by_turn)
    return TurnLevels(blank.layer, means, spreads, tuple(reached), source, blank.system_sha256)


def _alarms(alarm: Alarm, conversation: ConversationMeans) -> bool:
    """Whether the alarm is raised anywhere in a conversation."""
    state = State()
    for turn in conversation.turns:
        state = replace(state, turns=turn.turn)
        state, _ = advance(alarm, state, turn.mean, turn.tokens)
    return state.alarmed_at >= 0


def estimated(
    blank: Alarm, conversations: Sequence[ConversationMeans], *, horizon: int = 12
) -> tuple[Alarm, int]:
    """The alarm as `fit_alarm` fits it, not tried; and how many conversations got no weight.

    Every turn must have 4 tokens or more, every conversation two turns.
    """
    token = _token_spread(blank, conversations)
    expected = _expected(blank, conversations, np.median)
    kept = _without_outliers(blank, conversations, expected)
    # Means over the conversations kept: medians are less exact.
    expected = _expected(blank, kept, np.mean)
    between, within = _spreads(blank, kept, expected, token)
    alarm = replace(blank, expected=expected, between=between, within=within, token=token, fit=None)
    tokens = [turn.tokens for each in kept for turn in each.turns]
    if alarm.statistic != "mixture":
        alarm = tuned(alarm, horizon=horizon, tokens=int(np.median(tokens)))
    return alarm, len(conversations) - len(kept)


def _token_spread(blank: Alarm, conversations: Sequence[ConversationMeans]) -> float:
    """Standard deviation of a turn's mean times the root of its tokens, from blocks in turns."""
    for size in BLOCKS:
        blocked = [
            np.array(turn.blocks[str(size)])
            for each in conversations
            for turn in each.turns
            if len(turn.blocks[str(size)]) > 1
        ]
        if len(blocked) >= _FEWEST_BLOCKED:
            squares = sum(float(((b - b.mean()) ** 2).sum()) for b in blocked)
            freedom = sum(len(b) - 1 for b in blocked)
            return math.sqrt(size * squares / freedom) / blank.gap
    raise TooFewSamplesError(
        f"fewer than {_FEWEST_BLOCKED} answers have {2 * BLOCKS[-1]} tokens or more, which tell "
        "the noise of short ones; give longer answers"
    )


def _expected(
    blank: Alarm,
    conversations: Sequence[ConversationMeans],
    centre: Callable[[Sequence[float]], np.floating],
) -> tuple[float, ...]:
    """Level by turn; turns that too few conversations reach are pooled with all later ones."""
    at: dict[int, list[float]] = {}
    for each in conversations:
        for turn in each.turns:
            at.setdefault(turn.turn, []).append(blank.in_gaps(turn.mean))
    levels: list[float] = []
    for number in range(max(at) + 1):
        if len(at.get(number, [])) < min(_FEWEST_AT_TURN, len(conversations) // 2):
            rest = [
                gaps
                for later, levels_there in at.items()
                if later >= number
                for gaps in levels_there
            ]
            if len(rest) >= _FEWEST_AT_TURN or not levels:
                levels.append(float(centre(rest)))
            break
        levels.append(float(centre(at[number])))
    return tuple(levels)


def _falls(
    blank: Alarm, conversations: Sequence[ConversationMeans], expected: Sequence[float]
) -> list[Floats]:
    """Falls below the expected level, in gaps, by conversation."""
    last = len(expected) - 1
    return [
        np.array([expected[min(t.turn, last)] - blank.in_gaps(t.mean) for t in each.turns])
        for each in conversations
    ]


def _without_outliers(
    blank: Alarm, conversations: Sequence[ConversationMeans], expected: Sequence[float]
) -> list[ConversationMeans]:
    """Conversations but for those that stand out by their mean or by a turn."""
    falls = _falls(blank, conversations, expected)
    mean_C = np.array([np.median(each) for each in falls])
    spread = _MAD * float(np.median(np.abs(mean_C - np.median(mean_C))))
    inner = np.concatenate([each - np.median(each) for each in falls])
    inner_spread = _MAD * float(np.median(np.abs(inner)))
    far_C = np.abs(mean_C - np.median(mean_C)) / max(spread, 1e-12)
    # Half of the turns lie at their own median by chance, where there are two or three.
    worst_C = np.array([np.abs(each - np.median(each)).max() for each in falls])
    far_C = np.maximum(far_C, worst_C / max(inner_spread, 1e-12) * 0.7)
    order = np.argsort(far_C)[::-1]
    most = int(_MOST_LEFT_OUT * len(conversations))
    out = {int(n) for n in order[:most] if far_C[n] > _OUTLIER}
    return [each for n, each in enumerate(conversations) if n not in out]


def _spreads(
    blank: Alarm,
    conversations: Sequence[ConversationMeans],
    expected: Sequence[float],
    token: float,
) -> tuple[float, float]:
    """Standard deviations between and within conversations, by analysis of variance.

    With conversations of unequal numbers of turns (Searle, Casella and McCulloch 1992, Variance
    Components, ch. 3). They are of a new conversation: both mean squares are widened for what they
    and the expected levels are estimated from, as a prediction interval is.
    """
    falls = _falls(blank, conversations, expected)
    count_C = np.array([len(each) for each in falls])
    total, groups = int(count_C.sum()), len(falls)
    mean_C = np.array([each.mean() for each in falls])
    squares = sum(
        float(((each - mean) ** 2).sum()) for each, mean in zip(falls, mean_C, strict=True)
    )
    # Each turn's own level was estimated, too.
    freedom = (total - groups) * (groups - 1) / groups
    inner = squares / freedom * _widening(blank, freedom) * (1 + 1 / groups)
    grand = float((count_C * mean_C).sum() / total)
    outer = float((count_C * (mean_C - grand) ** 2).sum()) / (groups - 1)
    outer *= _widening(blank, groups - 1) * (1 + 1 / groups)
    typical = (total - float((count_C**2).sum()) / total) / (groups - 1)
    between = max(0.0, (outer - inner) / typical)
    inverse = float(np.mean([1 / turn.tokens for each in conversations for turn in each.turns]))
    within = max(inner - token**2 * inverse, _LEAST_SHARE * inner)
    if within <= 0:
        raise UsageError(
            "all turns of the conversations have the same level; give real conversations"
        )
    return math.sqrt(between), math.sqrt(within)


def _widening(alarm: Alarm, freedom: float) -> float:
    """How much a variance known from so few degrees of freedom counts as, for the rate to hold.

    A normal value that is divided by an estimated standard deviation has Student's distribution
    (1908, Biometrika 6:1): its quantile over the normal one, squared.
    """
    from scipy.stats import norm, t

    share = alarm.rate / (_LOOKS if alarm.statistic == "mixture" else _LOOKS_TUNED)
    return float((t.ppf(share, freedom) / norm.ppf(share)) ** 2)


def _warnings(alarm: Alarm, conversations: Sequence[ConversationMeans], left_out: int) -> list[str]:
    """What the checks do not say."""
    longest = len(alarm.expected)
    warnings = []
    if left_out:
        warnings.append(
            f"{left_out} of {len(conversations)} conversations stand out and got no weight: they "
            "may have drifted; look at them with keel drift watch"
        )
    if longest < 6:
        warnings.append(
            f"the expected level is known for {longest} turns only; later turns are taken to "
            "stand where the last one does, and the rate may not hold for longer conversations"
        )
    return warnings
