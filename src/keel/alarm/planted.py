"""Many conversations at once: evidence by turn, and conversations drawn from an alarm's model.

For thresholds, expected detection, and tests of both. A suffix `_N` counts conversations, `_T`
turns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from keel.alarm.evidence import CUSUM, EWMA, LARGEST, prior_until
from keel.alarm.value import Alarm

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_DRAWS = 4_000


@dataclass(frozen=True)
class Detection:
    """How well an alarm tells a change in conversations drawn from its own model."""

    share: float
    """Detected by the end, of those without an alarm before the change."""
    within_3_turns: float
    delay_turns: float | None
    """Mean turns from the change to the alarm, of those detected; 0 is the turn of the change."""


def evidence_paths(alarm: Alarm, gaps_NT: Floats, tokens_NT: Counts) -> Floats:
    """Evidence after every turn of every conversation, as `advance` has it; all turns are judged.

    Change points are all followed, however many turns there are.
    """
    turns = gaps_NT.shape[1]
    expected_T = np.array([alarm.expected_at(t) for t in range(turns)])
    fall_NT = expected_T - gaps_NT
    weight_NT = 1 / (alarm.within**2 + alarm.token**2 / tokens_NT)
    if alarm.statistic in ("mixture", "glr"):
        return _over_changes(alarm, fall_NT, weight_NT)
    return _scores(alarm, fall_NT, weight_NT)


def planted(
    alarm: Alarm,
    tokens_NT: Counts,
    *,
    seed: int,
    change: int | None = None,
    drop: float | None = None,
) -> Floats:
    """Levels in gaps of conversations of the default, `drop` lower from turn `change` on."""
    rng = np.random.default_rng(seed)
    count, turns = tokens_NT.shape
    expected_T = np.array([alarm.expected_at(t) for t in range(turns)])
    spread_NT = np.sqrt(alarm.within**2 + alarm.token**2 / tokens_NT)
    gaps_NT: Floats = expected_T + rng.normal(0, alarm.between, (count, 1))
    gaps_NT = gaps_NT + spread_NT * rng.normal(size=(count, turns))
    if change is not None:
        gaps_NT[:, change:] -= alarm.drop if drop is None else drop
    return gaps_NT


def tuned(alarm: Alarm, *, horizon: int, tokens: int, seed: int = 0) -> Alarm:
    """The alarm with a threshold for its rate that holds for conversations of `horizon` turns.

    The threshold is a quantile of the highest evidence in conversations drawn from the model; the
    mixture needs none, and stays.
    """
    if alarm.statistic == "mixture":
        return alarm
    draws = max(_DRAWS, round(100 / alarm.rate))
    tokens_NT = np.full((draws, horizon), tokens)
    highest_N = evidence_paths(alarm, planted(alarm, tokens_NT, seed=seed), tokens_NT).max(axis=1)
    threshold = float(np.quantile(highest_N, 1 - alarm.rate, method="higher"))
    return replace(alarm, thresholds={f"{alarm.rate:g}": threshold}, horizon=horizon)


def detection(
    alarm: Alarm, *, tokens: int, turns: int = 12, change: int = 5, seed: int = 0
) -> Detection:
    """Expected detection of a fall by the alarm's `drop` at a turn, from conversations drawn."""
    tokens_NT = np.full((_DRAWS, turns), tokens)
    gaps_NT = planted(alarm, tokens_NT, seed=seed, change=change)
    is_over_NT = evidence_paths(alarm, gaps_NT, tokens_NT) >= alarm.threshold()
    clean_N = ~is_over_NT[:, :change].any(axis=1)
    after_NT = is_over_NT[clean_N, change:]
    hit_N = after_NT.any(axis=1)
    delay_N = after_NT.argmax(axis=1)
    return Detection(
        float(hit_N.mean()),
        float((hit_N & (delay_N < 3)).mean()),
        float(delay_N[hit_N].mean()) if hit_N.any() else None,
    )


def _over_changes(alarm: Alarm, fall_NT: Floats, weight_NT: Floats) -> Floats:
    """Mixture, or largest log ratio, over change points, after every turn."""
    count, turns = fall_NT.shape
    sums_NT, falls_NT = np.zeros((count, turns + 1)), np.zeros((count, turns + 1))
    np.cumsum(weight_NT, axis=1, out=sums_NT[:, 1:])
    np.cumsum(weight_NT * fall_NT, axis=1, out=falls_NT[:, 1:])
    prior_T = np.diff([prior_until(t) for t in range(turns + 1)])
    evidence_NT = np.empty_like(fall_NT)
    for t in range(1, turns + 1):
        weight_NC = sums_NT[:, t, None] - sums_NT[:, :t]
        shrink_N1 = alarm.between**2 / (1 + alarm.between**2 * sums_NT[:, t, None])
        slope_NC = falls_NT[:, t, None] - falls_NT[:, :t]
        slope_NC = slope_NC - shrink_N1 * falls_NT[:, t, None] * weight_NC
        curvature_NC = weight_NC - shrink_N1 * weight_NC**2
        if alarm.statistic == "glr":
            log_NC = np.maximum(slope_NC, 0) ** 2 / (2 * curvature_NC)
            evidence_NT[:, t - 1] = log_NC.max(axis=1)
            continue
        log_NC = alarm.drop * slope_NC - 0.5 * alarm.drop**2 * curvature_NC
        total_N = np.exp(np.minimum(log_NC, LARGEST)) @ prior_T[:t]
        evidence_NT[:, t - 1] = total_N + 1 - prior_until(t)
    return evidence_NT


def _scores(alarm: Alarm, fall_NT: Floats, weight_NT: Floats) -> Floats:
    """Statistics of one running number, after every turn."""
    variance_NT = alarm.between**2 + 1 / weight_NT
    deviation_NT = fall_NT / np.sqrt(variance_NT)
    if alarm.statistic == "turn":
        return deviation_NT
    if alarm.statistic == "fall":
        evidence_NT = np.zeros_like(fall_NT)
        before_NT = np.cumsum(weight_NT, axis=1)[:, :-1]
        mean_NT = np.cumsum(weight_NT * fall_NT, axis=1)[:, :-1] / before_NT
        noise_NT = np.sqrt(1 / weight_NT[:, 1:] + 1 / before_NT)
        evidence_NT[:, 1:] = (fall_NT[:, 1:] - mean_NT) / noise_NT
        return evidence_NT
    score_N = np.zeros(len(fall_NT))
    evidence_NT = np.empty_like(fall_NT)
    for t in range(fall_NT.shape[1]):
        if alarm.statistic == "ewma":
            score_N = EWMA * deviation_NT[:, t] + (1 - EWMA) * score_N
        elif alarm.statistic == "cusum":
            score_N = np.maximum(0, score_N + deviation_NT[:, t] - CUSUM)
        else:
            ratio_N = alarm.drop * (fall_NT[:, t] - alarm.drop / 2) / variance_NT[:, t]
            score_N = np.maximum(0, score_N + ratio_N)
        evidence_NT[:, t] = score_N
    return evidence_NT
