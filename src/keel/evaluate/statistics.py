"""Rates, differences and correlations with what can be said of them: intervals and p-values.

Answers that share a persona or a request are not independent. Every number here takes the items'
factors and says how it would move with other levels of them. Knows nothing of models or judges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from keel.errors import TooFewSamplesError
from keel.evaluate.resampling import DRAWS, Codes, Floats, Resampling, clustering
from keel.types import Interval

_EXACT_LEVELS = 16
"""Up to so many levels that differ, all 2^n signs are tried."""
_FLIPS = 20_000
_LEVEL = 0.95


def rate_interval(values_N: Floats, draws: Resampling) -> Interval:
    """Mean of the values, 0 or 1 or scores, with its 95 % interval.

    Of shares the interval is never narrower than Wilson's for as many independent answers: where
    all are equal, drawing anew shows no spread at all. It is the smallest that holds both.
    Raises TooFewSamplesError where there is no value.
    """
    _check_some(values_N)
    value = float(values_N.mean())
    found = draws.interval(value, draws.means([values_N])[:, 0], values_N - value)
    return _hull(found, wilson(values_N)) if _are_shares(values_N) else found


def difference_interval(values_N: Floats, baseline_N: Floats, draws: Resampling) -> Interval:
    """Mean of value minus baseline, item by item, with its 95 % interval.

    Of shares never narrower than Newcombe's for as many independent pairs; see `rate_interval`.
    """
    _check_some(values_N)
    differences_N = values_N - baseline_N
    value = float(differences_N.mean())
    drawn_S = draws.means([differences_N])[:, 0]
    found = draws.interval(value, drawn_S, differences_N - value)
    if not (_are_shares(values_N) and _are_shares(baseline_N)):
        return found
    return _hull(found, newcombe(values_N, baseline_N))


def paired_p_value(
    values_N: Floats,
    baseline_N: Floats,
    factors: Sequence[Mapping[str, str]],
    *,
    seed: int = 0,
) -> float:
    """Two-sided p of no difference between two answers to the same items.

    Signs are flipped level by level, since under the null a level's differences are as likely
    the other way round: all flips where up to 16 levels differ, else 20,000 by chance. Factors
    that cross are tried one after the other and the largest p counts. Without factors that bind
    items it is McNemar's exact test.
    """
    differences_N = values_N - baseline_N
    binding = clustering(factors)
    if not binding and set(np.unique(differences_N)) <= {-1.0, 0.0, 1.0}:
        return _mcnemar(differences_N)
    levels = binding or {"item": np.arange(len(differences_N))}
    return max(_flip_signs(differences_N, codes_N, seed) for codes_N in levels.values())


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Each p after Holm's correction for having tested all of them (Holm 1979)."""
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = highest
    return corrected


def clustered_correlation(
    x_N: Floats,
    y_N: Floats,
    factors: Sequence[Mapping[str, str]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Pearson's r of two numbers per item, with a 95 % interval over the items' factors.

    Raises TooFewSamplesError where one of the two is the same for all items.
    """
    x_N, y_N = np.asarray(x_N, np.float64), np.asarray(y_N, np.float64)
    if len(x_N) < 3 or not (x_N.std() > 0 and y_N.std() > 0):
        raise TooFewSamplesError(
            f"no correlation over {len(x_N)} items: expected three or more, of which neither "
            "number is always the same; ask more items"
        )
    x_N, y_N = (x_N - x_N.mean()) / x_N.std(), (y_N - y_N.mean()) / y_N.std()
    r = float((x_N * y_N).mean())
    resampling = Resampling.of(factors, draws=draws, seed=seed)
    means_SK = resampling.means([x_N, y_N, x_N**2, y_N**2, x_N * y_N])
    mean_x, mean_y, square_x, square_y, product = means_SK.T
    spread = (square_x - mean_x**2) * (square_y - mean_y**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn_S = (product - mean_x * mean_y) / np.sqrt(np.where(spread > 1e-12, spread, np.nan))
    return resampling.interval(r, drawn_S, x_N * y_N - r * (x_N**2 + y_N**2) / 2)


def wilson(values_N: Floats) -> Interval:
    """Share of ones with Wilson's score interval, as if the answers were independent."""
    from scipy.stats import binomtest

    ones, count = round(float(values_N.sum())), len(values_N)
    found = binomtest(ones, count).proportion_ci(_LEVEL, method="wilson")
    return Interval(ones / count, float(found.low), float(found.high))


def newcombe(first_N: Floats, second_N: Floats) -> Interval:
    """Difference of two paired shares, as if pairs were independent.

    Method 10 of Newcombe (1998, Statistics in Medicine 17:2635): Wilson's intervals of both, put
    together with their correlation.
    """
    one, two = wilson(first_N), wilson(second_N)
    phi = _phi(first_N, second_N)
    difference = one.value - two.value
    down, up = one.value - one.low, two.high - two.value
    low = difference - max(0.0, down**2 - 2 * phi * down * up + up**2) ** 0.5
    down, up = two.value - two.low, one.high - one.value
    high = difference + max(0.0, down**2 - 2 * phi * down * up + up**2) ** 0.5
    return Interval(difference, low, high)


def _phi(first_N: Floats, second_N: Floats) -> float:
    """Correlation of two paired shares, as Newcombe corrects it; 0 where one does not vary."""
    count = len(first_N)
    both = float((first_N * second_N).sum())
    one, two = float(first_N.sum()), float(second_N.sum())
    product = one * (count - one) * two * (count - two)
    if product == 0:
        return 0.0
    excess = both * (count - one - two + both) - (one - both) * (two - both)
    if excess > 0:
        excess = max(0.0, excess - count / 2)
    return float(excess / product**0.5)


def _flip_signs(differences_N: Floats, codes_N: Codes, seed: int) -> float:
    sums_L = np.bincount(codes_N, weights=differences_N)
    sums_L = sums_L[np.abs(sums_L) > 1e-12]
    observed = abs(float(sums_L.sum())) - 1e-9
    if len(sums_L) <= _EXACT_LEVELS:
        places = np.arange(2 ** len(sums_L))[:, None] >> np.arange(len(sums_L))
        reached = np.abs((1 - 2 * (places & 1)) @ sums_L) >= observed
        return float(reached.mean())
    chance = np.random.default_rng(seed)
    hits = 0
    for _ in range(10):  # ten parts, for memory's sake
        signs = 1 - 2 * chance.integers(0, 2, size=(_FLIPS // 10, len(sums_L)), dtype=np.int8)
        hits += int((np.abs(signs @ sums_L) >= observed).sum())
    return (1 + hits) / (1 + _FLIPS)


def _mcnemar(differences_N: Floats) -> float:
    """McNemar's test, exact: of the pairs that differ, half should differ either way."""
    from scipy.stats import binomtest

    up, down = int((differences_N > 0).sum()), int((differences_N < 0).sum())
    return float(binomtest(up, up + down).pvalue) if up + down else 1.0


def _hull(one: Interval, other: Interval) -> Interval:
    return Interval(one.value, min(one.low, other.low), max(one.high, other.high))


def _are_shares(values_N: Floats) -> bool:
    return set(np.unique(values_N)) <= {0.0, 1.0}


def _check_some(values_N: Floats) -> None:
    if not len(values_N):
        raise TooFewSamplesError(
            "no answer was judged, so there is no rate; look at the verdicts' reasons"
        )
