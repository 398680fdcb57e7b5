"""Means, shares and differences with their intervals, and p-values that go with them.

All intervals are of 95 %, where no `level` is given.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keel.errors import TooFewSamplesError
from keel.statistics.clusters import LEVEL, Clusters, Floats, Variance
from keel.types import Interval

Bounds = tuple[float, float]
_SHARES: Bounds = (0.0, 1.0)
_UNBOUNDED: Bounds = (-np.inf, np.inf)
_ALIKE = 1e-12
"""Of their size: values that differ by less are equal but for rounding."""
_ENDS = (2.5, 97.5)
_LEAST_P = 1e-12
_SKEWED = 0.25
_SKEWED_BY_CHANCE = (4.0, 2.5)
"""Numerator, and what is added to the levels: of 5 to 12 normal ones 5 to 8 % lie beyond."""
_FEW_COUNTED = 3


def rate_interval(
    values_N: Floats, clusters: Clusters, *, level: float = LEVEL, scale: Bounds | None = None
) -> Interval:
    """Mean of the values, 0 or 1 or scores, with its 95 % interval.

    `scale` is the least and the greatest score that an item could have had, infinite where nothing
    bounds it; without it, values that are all 0 or 1 are taken for shares.

    Of shares it is Wilson's for as many independent answers as would be as uncertain (Korn and
    Graubard 1998, Survey Methodology 24:193, with Wilson's in place of the exact interval), longer
    towards 0 or 1 where only few answers do, or do not, count; where all are equal, items of one
    level count once. Of scores it is Student's t; where no two differ,
    others lie as far as the scale and so few items allow.
    Raises TooFewSamplesError where there is no value.
    """
    _check_some(values_N)
    value = float(values_N.mean())
    if not _are_shares(scale, values_N):
        bounds = scale or _UNBOUNDED
        if _are_alike(values_N):
            return _unvaried(value, clusters, bounds, level)
        return mean_interval(values_N, clusters, level=level, bounds=bounds)
    if clusters.is_single:
        return Interval(value, *_SHARES)
    interval = share_interval(value, clusters, values_N - value, level)
    return _of_few(interval, _effective_items(value, clusters, values_N - value), level)


def mean_interval(
    values_N: Floats, clusters: Clusters, *, level: float = LEVEL, bounds: Bounds = _UNBOUNDED
) -> Interval:
    """Mean of numbers that are no shares, whatever their values, with Student's interval.

    Where no two of several numbers with `bounds` differ, the ends are as far as these bounds and so
    few items allow. Those of a single number are the bounds. Without `bounds`, the ends of
    numbers that are all 0 are infinite: what moved none of these items may move others.
    """
    _check_some(values_N)
    value = float(values_N.mean())
    if clusters.is_single or len(values_N) < 2:
        return Interval(value, *bounds)
    if _are_alike(values_N) and (np.isfinite(bounds).all() or not values_N.any()):
        return _unvaried(value, clusters, bounds, level)
    interval = _t_interval(value, values_N - value, clusters, level)
    return Interval(value, max(bounds[0], interval.low), min(bounds[1], interval.high))


def is_too_skewed(values_N: Floats, clusters: Clusters) -> bool:
    """Whether Student's interval of the mean of such numbers is likely to be too narrow.

    That is so where the mean itself has a skewness of more than 0.25 either way, over the levels of
    any factor that binds: after Cochran's rule of thumb (Sampling Techniques, 1977, section 2.15),
    which has 0.2; and no fewer levels than could show as much by chance. A sample that lacks the
    long tail cannot show it. It is for scores: shares have intervals of their own.
    """
    if _are_alike(values_N):
        return False
    influence_N = values_N - values_N.mean()
    scale, more = _SKEWED_BY_CHANCE
    for codes_N in clusters.binding.values():
        sums_L = np.bincount(codes_N, weights=influence_N)
        spread, third = float(sums_L @ sums_L), abs(float((sums_L**3).sum()))
        if third > max(_SKEWED, scale / (len(sums_L) + more)) * spread**1.5:
            return True
    return False


def _unvaried(value: float, clusters: Clusters, bounds: Bounds, level: float) -> Interval:
    """Of items none of which differs: at most so many others may, and lie at a bound."""
    reach = most_unseen(clusters, level=level)
    low, high = (value + reach * (bound - value) for bound in bounds)
    return Interval(value, float(low), float(high))


def most_unseen(clusters: Clusters, *, level: float = LEVEL) -> float:
    """The largest share (0 to 1) of which so many items may well have shown none: Wilson's."""
    if clusters.is_single:
        return 1.0
    return share_interval(0.0, clusters, np.zeros(clusters.items), level).high


def exact_rate_interval(count: int, total: int) -> Interval:
    """A share of independent cases with its exact interval, which covers 95 % or more.

    That of Clopper and Pearson (1934, Biometrika 26:404), wider than Wilson's: for what may be too
    often, but never seem too rare.
    """
    from scipy.stats import beta

    low = float(beta.ppf(0.025, count, total - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, total - count)) if count < total else 1.0
    return Interval(count / total, low, high)


def share_of_groups_interval(shares_G: Floats, *, level: float = LEVEL) -> Interval:
    """Mean over groups of each group's share (0 to 1), with its 95 % interval over groups.

    Wilson's with Student's t, at the number of independent answers that would be as uncertain;
    where all groups have one share, a group counts once. 0 to 1 of a single group.
    """
    _check_some(shares_G)
    share, groups = float(shares_G.mean()), len(shares_G)
    if groups < 2:
        return Interval(share, *_SHARES)
    spread = float(shares_G.var(ddof=1)) / groups
    count = float(groups)
    if not _are_alike(shares_G):
        count = max(1.0, share * (1 - share) / spread)
    interval = _wilson(share, count, Variance(spread, groups - 1).quantile(level))
    return _of_few(interval, count, level)


def independent_difference(first: Interval, second: Interval, bounds: Bounds) -> Interval:
    """The first number minus the second, independent of it, from the intervals of both.

    Newcombe's (1998, Statistics in Medicine 17:873, method 10); for other means than shares Zou
    and Donner's (2008, Statistics in Medicine 27:1693).
    """
    value = first.value - second.value
    down = np.hypot(first.value - first.low, second.high - second.value)
    up = np.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, max(bounds[0], float(value - down)), min(bounds[1], float(value + up)))


def positive_mean_interval(values_N: Floats, clusters: Clusters) -> Interval:
    """Mean of costs, which no one gets below 0 and few have much of, with its 95 % interval.

    Student's on the logarithm of the mean, with the larger of two variances: the delta method's and
    Cox's for lognormal values (Zhou and Gao 1997, Statistics in Medicine 16:783). A sample that
    lacks the long tail makes the first too small. Where all are 0, and of a single answer, the
    upper end is infinite: nothing bounds what others cost.
    Raises TooFewSamplesError where there is no value.
    """
    _check_some(values_N)
    value = float(values_N.mean())
    if clusters.is_single or len(values_N) < 2 or not value > 0:
        return Interval(value, 0.0, np.inf)
    variance = clusters.variance(values_N / value - 1)
    largest = variance.value
    if (values_N > 0).all() and len(values_N) > 1:
        log_N = np.log(values_N)
        levels = min(clusters.levels.values(), default=len(values_N))
        tail = float(log_N.var(ddof=1)) / 2 * levels / (levels - 1)
        largest = max(largest, clusters.variance(log_N - log_N.mean()).value * (1 + tail))
    reach = variance.quantile(LEVEL) * largest**0.5 if largest > 0 else 0.0
    return Interval(value, float(value * np.exp(-reach)), float(value * np.exp(reach)))


def difference_interval(
    values_N: Floats,
    baseline_N: Floats,
    clusters: Clusters,
    *,
    level: float = LEVEL,
    scale: Bounds | None = None,
) -> Interval:
    """Mean of value minus baseline, item by item, with its 95 % interval; `scale` as of a rate.

    Of shares it is Newcombe's (1998, Statistics in Medicine 17:2635, method 10) from the intervals
    and the covariance that both arms have over the items' clusters; widened up to 0 where too few
    pairs differ to tell. Of scores it is Student's t; where all differ by the same, as far as the
    spread of the scores, or their scale, and so few items allow.
    """
    _check_some(values_N)
    interval = _difference(values_N, baseline_N, clusters, level, scale)
    if _fewest_p(values_N, baseline_N, clusters, scale) > 1 - level:
        return Interval(interval.value, min(0.0, interval.low), max(0.0, interval.high))
    return interval


def paired_p_value(
    values_N: Floats, baseline_N: Floats, clusters: Clusters, *, scale: Bounds | None = None
) -> float:
    """Two-sided p of no difference between two answers to the same items.

    The level from which on `difference_interval` holds 0, so that the two never contradict each
    other: 1 where nothing differs, and never less than 1e-12.
    """
    from scipy.optimize import brentq

    def nearer_end(p: float) -> float:
        """The end of the interval that lies towards 0, in the direction of the difference."""
        interval = _difference(values_N, baseline_N, clusters, 1 - p, scale)
        return interval.low if interval.value > 0 else -interval.high

    if clusters.is_single or abs(float((values_N - baseline_N).mean())) < 1e-12:
        return 1.0
    p = _LEAST_P
    if nearer_end(p) <= 0:
        p = brentq(nearer_end, _LEAST_P, 1 - 1e-9, xtol=1e-12)
    return max(float(p), _fewest_p(values_N, baseline_N, clusters, scale))


def _difference(
    values_N: Floats, baseline_N: Floats, clusters: Clusters, level: float, scale: Bounds | None
) -> Interval:
    differences_N = values_N - baseline_N
    value = float(differences_N.mean())
    if _are_shares(scale, values_N, baseline_N):
        if clusters.is_single:
            return Interval(value, -1.0, 1.0)
        return _share_difference(values_N, baseline_N, clusters, level)
    if clusters.is_single or _are_alike(differences_N):
        widest = float(np.ptp(np.concatenate([values_N, baseline_N]))) or np.inf
        if scale is not None and np.isfinite(scale).all():
            widest = scale[1] - scale[0]
        bounds = _UNBOUNDED if clusters.is_single else (-widest, widest)
        return _unvaried(value, clusters, bounds, level)
    return _t_interval(value, differences_N - value, clusters, level)


def _fewest_p(
    values_N: Floats, baseline_N: Floats, clusters: Clusters, scale: Bounds | None
) -> float:
    """The least p that so few pairs, or clusters, can give: by chance each differs either way.

    McNemar's with mid-p of independent pairs (Fagerland, Lydersen and Laake 2013, BMC Medical
    Research Methodology 13:91); of clusters, that all of the fewest levels lean one way. Scores
    that differ are as good as their variance says, unless all differ by the same.
    """
    from scipy.stats import binom

    differences_N = values_N - baseline_N
    if not _are_shares(scale, values_N, baseline_N) and np.ptp(differences_N) > 0:
        return 0.0
    if clusters.codes:
        return float(0.5 ** min(clusters.levels.values()))
    up, down = int((differences_N > 0).sum()), int((differences_N < 0).sum())
    fewer, pairs = min(up, down), up + down
    return min(1.0, float(2 * binom.cdf(fewer, pairs, 0.5) - binom.pmf(fewer, pairs, 0.5)))


def _t_interval(value: float, influence_N: Floats, clusters: Clusters, level: float) -> Interval:
    variance = clusters.variance(influence_N)
    if not variance.value > 0:  # levels are alike by chance, their items are not
        variance = Clusters({}, {}, clusters.items).variance(influence_N)
    return variance.interval(value, level=level)


def share_interval(share: float, clusters: Clusters, influence_N: Floats, level: float) -> Interval:
    """Wilson's interval of a share, at the number of independent items that it is worth."""
    freedom = clusters.variance(influence_N).freedom if clusters.codes else np.inf
    count = _effective_items(share, clusters, influence_N)
    return _wilson(share, count, Variance(0.0, freedom).quantile(level))


def _wilson(share: float, count: float, z: float) -> Interval:
    """Wilson's interval of a share of so many independent items, `z` standard errors wide."""
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    # An end at 0 or 1 is exact: rounding may not push the share out of its own interval.
    return Interval(
        share, max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))
    )


def _of_few(share: Interval, count: float, level: float) -> Interval:
    """Wilson's interval with the end towards 0, or 1, that a Poisson count of at most three has.

    Brown, Cai and DasGupta (2001, Statistical Science 16:101, section 4.1.1): of 12 answers of
    which two count, Wilson's says 4.7 % at least, but of rates of 4.5 % one study in ten has two.
    """

    from scipy.special import gammaincinv

    def least(counted: float) -> float:
        if not 0 < counted <= _FEW_COUNTED:
            return 1.0
        return float(gammaincinv(counted, 1 - level)) / count

    low = min(share.low, least(share.value * count))
    high = max(share.high, 1 - least((1 - share.value) * count))
    return Interval(share.value, low, high)


def _effective_items(share: float, clusters: Clusters, influence_N: Floats) -> float:
    """How many independent items would leave a share as uncertain as these leave it."""
    count = len(influence_N)
    if not clusters.codes:
        return count
    if not 0 < share < 1:
        return min(clusters.levels.values())
    independent = share * (1 - share) / max(1, count - 1)
    return count / max(1.0, clusters.variance(influence_N).value / independent)


def _share_difference(
    first_N: Floats, second_N: Floats, clusters: Clusters, level: float
) -> Interval:
    shares = float(first_N.mean()), float(second_N.mean())
    first_I, second_I = first_N - shares[0], second_N - shares[1]
    first = share_interval(shares[0], clusters, first_I, level)
    second = share_interval(shares[1], clusters, second_I, level)
    phi = _phi(clusters, first_I, second_I, shares)
    difference = shares[0] - shares[1]
    down, up = first.value - first.low, second.high - second.value
    low = difference - max(0.0, down**2 - 2 * phi * down * up + up**2) ** 0.5
    down, up = second.value - second.low, first.high - first.value
    high = difference + max(0.0, down**2 - 2 * phi * down * up + up**2) ** 0.5
    return Interval(difference, low, high)


def _phi(
    clusters: Clusters, first_I: Floats, second_I: Floats, shares: tuple[float, float]
) -> float:
    """Correlation of two paired shares, as Newcombe corrects it; 0 where either does not vary."""
    variances = [clusters.variance(each).value for each in (first_I, second_I)]
    product = shares[0] * (1 - shares[0]) * shares[1] * (1 - shares[1])
    if min(variances) <= 0 or product <= 0:
        return 0.0
    phi = clusters.covariance(first_I, second_I) / (variances[0] * variances[1]) ** 0.5
    if phi > 0:
        items = min(
            _effective_items(share, clusters, influence_N)
            for share, influence_N in zip(shares, (first_I, second_I), strict=True)
        )
        phi = max(0.0, phi - 1 / (2 * items * product**0.5))
    return float(min(1.0, max(-1.0, phi)))


def _are_alike(values_N: Floats) -> bool:
    return bool(np.ptp(values_N) <= _ALIKE * np.abs(values_N).max())


def _are_shares(scale: Bounds | None, *values: Floats) -> bool:
    """Whether items count or do not: scores of a wider scale may all be 0 or 1 by chance."""
    is_wider = scale is not None and scale != _SHARES
    return not is_wider and set(np.unique(np.concatenate(values))) <= {0.0, 1.0}


def _check_some(values_N: Floats) -> None:
    if not len(values_N):
        raise TooFewSamplesError(
            "no answer was judged, so there is no rate; look at the verdicts' reasons"
        )


# --- many tests ---


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Each p after Holm's correction for having tested all of them (Holm 1979)."""
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = highest
    return corrected


# --- resamples ---


def percentile_interval(
    value: float, resampled_S: Floats, *, samples: int | None = None
) -> Interval:
    """The value with the middle 95 % of its resamples, widened where they miss the value itself.

    Resamples of few samples are too much alike; where their number is given, the middle reaches as
    much farther as Student's t does (Hesterberg 2015, American Statistician 69:371, section 3).
    A resample in which nothing was left to compare is NaN, and left out. Raises TooFewSamplesError
    where none is left.
    """
    finite_S = resampled_S[np.isfinite(resampled_S)]
    if not len(finite_S):
        raise TooFewSamplesError(
            f"none of {len(resampled_S)} resamples drew anything to compare; ask the same "
            "questions of all (default and roles)"
        )
    low, high = np.percentile(finite_S, _ENDS if samples is None else _wider_ends(samples))
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _wider_ends(samples: int) -> tuple[float, float]:
    from scipy.stats import norm, t

    reach = t.ppf((1 + LEVEL) / 2, max(1, samples - 1)) * (samples / max(1, samples - 1)) ** 0.5
    outside = 100 * float(norm.sf(reach))
    return outside, 100 - outside
