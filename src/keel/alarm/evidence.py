"""Evidence for drift, turn by turn, from sums that a conversation carries along.

All change points c get a likelihood ratio under the joint Gaussian of `Alarm`, in which turns of
a conversation share its level: with Σ = diag(1/w) + s_b² 11ᵀ it follows from sums of w and w·r
(Sherman and Morrison 1950), r the turn's fall below the expected level. The mixture of the ratios
over c is a nonnegative martingale with mean 1 under the default, so the chance that it ever
reaches 1/rate is at most the rate (Ville 1939), in a conversation of any length.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keel.alarm.value import FEWEST_TOKENS, Alarm, TurnVerdict, VerdictState
from keel.errors import CorruptArtifactError, NotFiniteError

AT_START, LATER = 0.5, 0.15
"""Prior mass of a change at turn 0; chance per turn of a later one, given that there is none."""
_STAYS = 1 - LATER
_LATER_MASS = (1 - AT_START) * LATER / _STAYS
"""Prior mass of a change at turn c > 0, over `_STAYS` to the power of c."""
_MOST_CANDIDATES = 32
"""Change points that are followed at a time: what bounds a state's size."""
_FOREIGN = 4.0
"""Standard deviations from the expected level beyond which a turn is not the calibrated traffic."""
EWMA, CUSUM = 0.5, 1.0
"""Weight of the newest turn; slack per turn, in standard deviations."""
LARGEST = 600.0
_HEAD, _ROW = struct.Struct("<Iiddddi"), struct.Struct("<Idd")


@dataclass(frozen=True)
class State:
    """What is known of one conversation after its turns so far: a few hundred bytes."""

    turns: int = 0
    weight: float = 0.0
    """Sum of w, the inverse variances of turns within their conversation."""
    fall: float = 0.0
    """Sum of w·r."""
    score: float = 0.0
    """Of statistics with a memory of one number."""
    settled: float = 0.0
    """Mixture: what change points that are no longer followed stood at."""
    alarmed_at: int = -1
    """Turn at which the alarm was raised; -1 before."""
    candidates: tuple[tuple[int, float, float], ...] = ()
    """Change points: turn, `weight` and `fall` before it. Of statistics with a score, where it left
    zero."""

    def to_bytes(self) -> bytes:
        """A compact form, 40 bytes and 20 for each turn up to the 32nd."""
        head = _HEAD.pack(
            self.turns,
            self.alarmed_at,
            self.weight,
            self.fall,
            self.score,
            self.settled,
            len(self.candidates),
        )
        return head + b"".join(_ROW.pack(*candidate) for candidate in self.candidates)

    @classmethod
    def from_bytes(cls, packed: bytes) -> State:
        """The state of `to_bytes`. Raises CorruptArtifactError for other bytes."""
        try:
            turns, alarmed_at, weight, fall, score, settled, count = _HEAD.unpack_from(packed)
            rows = tuple(_ROW.iter_unpack(packed[_HEAD.size :]))
        except struct.error as error:
            raise CorruptArtifactError(
                f"{len(packed)} bytes are no state of a conversation: {error}; start it anew"
            ) from error
        if len(rows) != count:
            raise CorruptArtifactError(
                f"a conversation's state holds {len(rows)} change points, expected {count}; "
                "start it anew"
            )
        return cls(turns, weight, fall, score, settled, alarmed_at, rows)


def advance(
    alarm: Alarm, state: State, mean: float, tokens: int, *, rate: float | None = None
) -> tuple[State, TurnVerdict]:
    """The state after one more turn, and what the alarm says of the turn.

    `mean` is the turn's mean raw projection at the alarm's layer, over its `tokens` content tokens.
    A turn of fewer than 4 tokens is counted and not judged. Raises NotFiniteError for NaN or Inf.
    """
    threshold = alarm.threshold(rate)
    turn, expected = state.turns, alarm.expected_at(state.turns)
    if tokens > 0 and not math.isfinite(mean):
        raise NotFiniteError(
            f"turn {turn + 1} projects to {mean}, expected a number; load the model in float32 or "
            "bfloat16"
        )
    gaps = float(alarm.in_gaps(mean)) if tokens > 0 else None
    is_judged = gaps is not None and tokens >= FEWEST_TOKENS
    deviation = 0.0
    if gaps is None or not is_judged:
        after = replace(state, turns=turn + 1)
    else:
        fall, weight = expected - gaps, 1 / (alarm.within**2 + alarm.token**2 / tokens)
        deviation = fall / math.sqrt(alarm.between**2 + 1 / weight)
        after = _after(alarm, state, fall, weight, deviation)
    after, evidence, since = _evidence(alarm, after)
    is_held = alarm.horizon is None or turn < alarm.horizon
    is_new = state.alarmed_at < 0 and is_judged and is_held and evidence >= threshold
    if is_new:
        after = replace(after, alarmed_at=turn)
    watched = math.sqrt(threshold) if alarm.statistic == "mixture" else threshold / 2
    label: VerdictState = "ok"
    if after.alarmed_at >= 0:
        label = "alarm"
    elif not (is_judged and is_held):
        label = "unknown"
    elif abs(deviation) > _FOREIGN:
        label = "foreign"
    elif evidence >= watched:
        label = "watch"
    return after, TurnVerdict(label, evidence, threshold, since, turn, gaps, expected, is_new)


def provisional(
    alarm: Alarm, state: State, mean: float, tokens: int, *, rate: float | None = None
) -> TurnVerdict:
    """What the alarm says of a turn that is not finished; the conversation's state stays.

    It is looked at more often than the rate allows for, so it never raises an alarm: it says
    `watch` where the finished turn would.
    """
    _, verdict = advance(alarm, state, mean, tokens, rate=rate)
    label: VerdictState = "watch" if verdict.is_new else verdict.state
    return replace(verdict, state=label, is_new=False, is_provisional=True)


def _after(alarm: Alarm, state: State, fall: float, weight: float, deviation: float) -> State:
    """The state with one more judged turn, its fall in gaps and in standard deviations."""
    turn, candidates, settled, score = state.turns, state.candidates, state.settled, state.score
    if alarm.statistic in ("mixture", "glr"):
        candidates = (*candidates, (turn, state.weight, state.fall))
    else:
        if score <= 0 or not candidates:
            candidates = ((turn, 0.0, 0.0),)
        score = _score(alarm, state, fall, weight, deviation)
    return State(
        turn + 1,
        state.weight + weight,
        state.fall + weight * fall,
        score,
        settled,
        state.alarmed_at,
        candidates,
    )


def _score(alarm: Alarm, state: State, fall: float, weight: float, deviation: float) -> float:
    """The next value of a statistic that takes turns as independent, or of the own fall."""
    match alarm.statistic:
        case "ewma":
            return EWMA * deviation + (1 - EWMA) * state.score
        case "cusum":
            return max(0.0, state.score + deviation - CUSUM)
        case "page":
            variance = alarm.between**2 + 1 / weight
            ratio = alarm.drop * (fall - alarm.drop / 2) / variance
            return max(0.0, state.score + ratio)
        case "fall":
            if state.weight == 0:
                return 0.0
            return (fall - state.fall / state.weight) / math.sqrt(1 / weight + 1 / state.weight)
    return deviation


def _evidence(alarm: Alarm, state: State) -> tuple[State, float, int | None]:
    """The statistic of a state, and the turn from which drift is most likely.

    The state comes back with its change points bounded; the turn is None without any evidence.
    """
    if alarm.statistic == "mixture":
        return _mixture(alarm, state)
    if alarm.statistic == "glr":
        return _largest_ratio(alarm, state)
    return state, state.score, state.candidates[0][0] if state.score > 0 else None


def _mixture(alarm: Alarm, state: State) -> tuple[State, float, int | None]:
    """Over change points the sum of prior mass times likelihood ratio.

    Beyond so many, the least part stops where it stands. A martingale that is stopped is still one,
    so the rate of false alarms holds.
    """
    # A fall by d has the log ratio d·slope - d²·curvature/2, each as in `_largest_ratio`: with the
    # terms put together, a polynomial in what stood before the change point.
    weight, fall, drop = state.weight, state.fall, alarm.drop
    second = 0.5 * drop * drop * _shrink(alarm, state)
    pull = drop * _shrink(alarm, state) * fall
    first = pull + 0.5 * drop * drop - 2 * second * weight
    constant = drop * fall - weight * (pull + 0.5 * drop * drop - second * weight)
    parts = [
        (_LATER_MASS * _STAYS**turn if turn else AT_START)
        * math.exp(min(constant + w * (first + w * second) - drop * f, LARGEST))
        for turn, w, f in state.candidates
    ]
    evidence = state.settled + sum(parts) + 1.0 - prior_until(state.turns)
    since = state.candidates[parts.index(max(parts))][0] if parts and evidence > 1 else None
    if len(parts) > _MOST_CANDIDATES:
        settled = state.settled + min(parts)
        state = replace(state, candidates=_without_least(state, parts), settled=settled)
    return state, evidence, since


def _largest_ratio(alarm: Alarm, state: State) -> tuple[State, float, int | None]:
    """The largest log likelihood ratio over change points and sizes of a fall."""
    shrink = _shrink(alarm, state)
    values = []
    for _, w, f in state.candidates:
        weight = state.weight - w
        slope = state.fall - f - shrink * state.fall * weight
        curvature = weight - shrink * weight * weight
        values.append(slope * slope / (2 * curvature) if slope > 0 else 0.0)
    evidence = max(values, default=0.0)
    since = state.candidates[values.index(evidence)][0] if evidence > 0 else None
    if len(values) > _MOST_CANDIDATES:
        state = replace(state, candidates=_without_least(state, values))
    return state, evidence, since


def _shrink(alarm: Alarm, state: State) -> float:
    """How much of a shared fall the conversation's own level explains, per unit of weight."""
    return alarm.between**2 / (1 + alarm.between**2 * state.weight)


def _without_least(state: State, parts: Sequence[float]) -> tuple[tuple[int, float, float], ...]:
    least = parts.index(min(parts))
    return state.candidates[:least] + state.candidates[least + 1 :]


def prior_until(turns: int) -> float:
    """Prior mass of a change in the first so many turns."""
    return 0.0 if turns == 0 else 1 - (1 - AT_START) * _STAYS ** (turns - 1)
