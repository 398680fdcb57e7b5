"""Chooses a setting: the closest to the default within the price bound, the cheaper of equals.

The aim is the default itself, not as far beyond it as the price allows. How close answers in a role
come is the 1-Wasserstein distance of their mean projections under the floors from those of the
default's own answers, unsteered: how far an answer has to move on average to make the one
distribution of the other. Falling short, overshooting and bunching all count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keel.statistics import Clusters, percentile_interval
from keel.types import Interval, PricedSetting

_RESAMPLES = 2000
Gaps = NDArray[np.float64]


def choose_setting(
    priced: Sequence[PricedSetting], bound: float, default_gaps: Sequence[float], *, seed: int = 0
) -> PricedSetting:
    """The setting to use, by a rule that does not hang on the last digit of a price.

    1. Within the bound is a setting whose price's 95 % interval ends under it: one that stands at
       the bound is not taken, whichever side of it a CPU's rounding puts its mean.
    2. Of these the one is sought whose role-playing answers come closest to the default's.
    3. Of those that cannot be told apart from it in that (the 95 % interval of the difference, over
       answers drawn anew, holds 0) the cheapest is chosen.

    Where none is within the bound, the cheapest of all.
    """
    affordable = [s for s in priced if s.is_within(bound)]
    if not affordable:
        return min(priced, key=lambda s: s.kl_default)
    distances_S = [distance_draws(s.role_gaps, default_gaps, seed) for s in affordable]
    values = [distance(s.role_gaps, default_gaps) for s in affordable]
    nearest = int(np.argmin(values))
    alike = [
        setting
        for setting, of_setting_S in zip(affordable, distances_S, strict=True)
        if np.quantile(of_setting_S - distances_S[nearest], 0.025) <= 0
    ]
    return min(alike, key=lambda s: s.kl_default)


def distance(gaps: Sequence[float], default_gaps: Sequence[float]) -> float:
    """1-Wasserstein distance of two samples of mean projections, in their unit."""
    return float(_distances(np.array([gaps]), np.array([default_gaps]))[0])


def distance_interval(
    gaps: Sequence[float],
    default_gaps: Sequence[float],
    clusters: tuple[Clusters, Clusters] | None = None,
    *,
    seed: int = 0,
) -> Interval:
    """That distance with its 95 % interval, over answers drawn anew.

    `clusters` of the answers and of the default's say which belong together; else none do.
    """
    value = distance(gaps, default_gaps)
    draws_S = distance_draws(gaps, default_gaps, seed)
    samples = min(len(gaps), len(default_gaps))
    if clusters is not None:
        samples = min([samples, *(n for each in clusters for n in each.levels.values())])
        widening = _design_effect(gaps, default_gaps, clusters) ** 0.5
        draws_S = value + widening * (draws_S - value)
    return percentile_interval(value, np.maximum(0.0, draws_S), samples=samples)


def _design_effect(
    gaps: Sequence[float], default_gaps: Sequence[float], clusters: tuple[Clusters, Clusters]
) -> float:
    """How much more the difference of the means varies for what answers share (Kish 1965)."""
    shared = alone = 0.0
    for values, of_values in zip((gaps, default_gaps), clusters, strict=True):
        centred_N = np.array(values) - np.mean(values)
        shared += of_values.variance(centred_N).value
        alone += Clusters({}, {}, len(values)).variance(centred_N).value
    return max(1.0, shared / alone) if alone > 0 else 1.0


def distance_draws(gaps: Sequence[float], default_gaps: Sequence[float], seed: int) -> Gaps:
    """The distance of each of many draws of answers; the same draws for every setting.

    Less how much the drawing adds: two draws of one sample lie apart as well.
    """
    chance = np.random.default_rng(seed)
    roles_N, defaults_N = np.array(gaps), np.array(default_gaps)
    drawn_SN = chance.integers(len(roles_N), size=(_RESAMPLES, len(roles_N)))
    others_SN = chance.integers(len(defaults_N), size=(_RESAMPLES, len(defaults_N)))
    draws_S = _distances(roles_N[drawn_SN], defaults_N[others_SN])
    excess = float(draws_S.mean()) - distance(gaps, default_gaps)
    corrected_S: Gaps = draws_S - max(0.0, excess)
    return corrected_S


def _distances(first_SN: Gaps, second_SM: Gaps) -> Gaps:
    """Distance of each row of one from the same row of the other: the mean gap of quantiles."""
    points = max(first_SN.shape[1], second_SM.shape[1])
    levels_P = (np.arange(points) + 0.5) / points
    quantiles = [
        np.quantile(samples, levels_P, axis=1, method="inverted_cdf")
        for samples in (first_SN, second_SM)
    ]
    mean_S: Gaps = np.abs(quantiles[0] - quantiles[1]).mean(0)
    return mean_S
