"""Intervals, tests and agreement: every statistic that more than one stage needs.

Knows numbers and the names of factors' levels, nothing of answers, roles or judges. All intervals
are of 95 %. A suffix `_N` counts items, `_S` draws (resamples), `_L` levels of a factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from keel.errors import TooFewSamplesError
from keel.types import Interval

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

FEWEST_LEVELS = 5
"""A factor with fewer levels is taken as it is: four questions say next to nothing of a fifth, and
the result holds for those four."""
_LEVEL = 0.95
_ENDS = (2.5, 97.5)
_LEAST_P = 1e-12


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

    reach = t.ppf((1 + _LEVEL) / 2, max(1, samples - 1)) * (samples / max(1, samples - 1)) ** 0.5
    outside = 100 * float(norm.sf(reach))
    return outside, 100 - outside


# --- items that share factors ---


@dataclass(frozen=True)
class Variance:
    """The estimated variance of a number, and how well it is known itself."""

    value: float
    freedom: float
    """Degrees of freedom of Student's t; infinite where items are independent."""

    def quantile(self, level: float) -> float:
        """How many standard errors an interval of this level reaches to either side."""
        from scipy.stats import t

        return float(t.ppf((1 + level) / 2, self.freedom))


def jackknifed(by_factor: Sequence[Floats], *, shared_G: Floats | None = None) -> Variance:
    """The variance of a number over factors whose levels, or groups of them, were left out in turn.

    `by_factor` holds for each factor the number without each of its groups (Efron and Stein 1981,
    Annals of Statistics 9:586). `shared_G`, without groups that hold a like share of every level,
    is what single items give: it is in each factor's part, and is counted once. Degrees of freedom
    are Satterthwaite's, and no fewer than the fewest groups less one.
    """
    parts = [Variance(_spread(part_G), len(part_G) - 1) for part_G in by_factor]
    shared = 0.0 if shared_G is None else _spread(shared_G)
    total = sum(part.value for part in parts) - (len(parts) - 1) * shared
    value = max(total, *(part.value for part in parts)) if len(parts) > 1 else parts[0].value
    fewest = min(part.freedom for part in parts)
    spread = sum(part.value**2 / max(1, part.freedom) for part in parts)
    return Variance(value, max(fewest, value**2 / spread) if spread > 0 else fewest)


def _spread(without_G: Floats) -> float:
    """The jackknife's variance of a number, from what it is without each group."""
    groups = len(without_G)
    return (groups - 1) / groups * float(((without_G - without_G.mean()) ** 2).sum())


@dataclass(frozen=True)
class Clusters:
    """Which items belong together: those that share a level of a factor are not independent."""

    codes: Mapping[str, Codes]
    """Factor -> level of each item, of the factors that bind items; empty: all are independent."""
    fixed: Mapping[str, int]
    """Factor -> its levels, where there are too few: results hold for just these levels."""
    items: int

    @classmethod
    def of(cls, factors: Sequence[Mapping[str, str]], *, fewest: int = FEWEST_LEVELS) -> Clusters:
        """The clusters of items with these factors: factor -> level, for each item.

        A factor of which no two items share a level binds nothing. Factors with fewer than `fewest`
        levels are fixed. An item that lacks a factor has a level of its own there.
        """
        codes, fixed = {}, {}
        for name in sorted({name for item in factors for name in item}):
            named = [item.get(name, f"\0{index}") for index, item in enumerate(factors)]
            levels, codes_N = np.unique(np.array(named, dtype=object), return_inverse=True)
            if fewest <= len(levels) < len(factors):
                codes[name] = codes_N.reshape(-1)
            elif 1 < len(levels) < len(factors):
                fixed[name] = len(levels)
        return cls(codes, fixed, len(factors))

    @property
    def binding(self) -> Mapping[str, Codes]:
        """Level of each item of every factor that binds; each item by itself where none does."""
        return self.codes or {"item": np.arange(self.items)}

    @property
    def levels(self) -> dict[str, int]:
        """Number of levels of each factor that binds items."""
        return {name: int(codes_N.max()) + 1 for name, codes_N in self.codes.items()}

    def only(self, kept_N: NDArray[np.bool_]) -> Clusters:
        """The clusters of some of the items."""
        kept = int(kept_N.sum())
        codes = {
            name: np.unique(codes_N[kept_N], return_inverse=True)[1].reshape(-1)
            for name, codes_N in self.codes.items()
        }
        binding = {
            name: codes_N
            for name, codes_N in codes.items()
            if 1 < codes_N.max(initial=0) + 1 < kept
        }
        return Clusters(binding, self.fixed, kept)

    def variance(self, influence_N: Floats) -> Variance:
        """Variance of a number that each item moves by influence / items.

        That of Cameron, Gelbach and Miller (2011, J. Business & Economic Statistics 29:238): the
        sum over factors less what they share, each corrected for its number of levels, and never
        less than the largest factor's own. Degrees of freedom after Satterthwaite (1946, Biometrics
        2:110), at least the fewest levels less one.
        """
        parts = list(self._parts(influence_N, influence_N))
        alone = [part for part in parts if part.order == 1]
        value = max(sum(part.signed for part in parts), *(part.value for part in alone))
        fewest = min(part.levels for part in alone) - 1
        spread = sum(part.value**2 / max(1, part.levels - 1) for part in parts)
        freedom = max(fewest, value**2 / spread) if spread > 0 else fewest
        return Variance(max(0.0, value), float(freedom))

    def covariance(self, first_N: Floats, second_N: Floats) -> float:
        """Covariance of two numbers with these influences; see `variance`."""
        return sum(part.signed for part in self._parts(first_N, second_N))

    def _parts(self, first_N: Floats, second_N: Floats) -> Iterator[_ClusterPart]:
        """The (co)variance where items that share a level of all of some factors move together."""
        codes = self.binding
        for order in range(1, len(codes) + 1):
            for names in combinations(codes, order):
                key_N = np.zeros(self.items, dtype=np.intp)
                for name in names:
                    key_N = key_N * (int(codes[name].max()) + 1) + codes[name]
                _, cells_N = np.unique(key_N, return_inverse=True)
                first_C, second_C = (
                    np.bincount(cells_N.reshape(-1), weights=each) for each in (first_N, second_N)
                )
                levels = len(first_C)
                correction = levels / (levels - 1) if levels > 1 else 1.0
                value = correction * float(first_C @ second_C) / self.items**2
                yield _ClusterPart(order, levels, value)


@dataclass(frozen=True)
class _ClusterPart:
    """One term of a variance over crossed factors."""

    order: int
    """How many factors' levels its items share."""
    levels: int
    value: float

    @property
    def signed(self) -> float:
        """As it enters the sum: what two factors share was counted twice."""
        return self.value if self.order % 2 else -self.value


# --- rates and differences ---


def rate_interval(values_N: Floats, clusters: Clusters, *, level: float = _LEVEL) -> Interval:
    """Mean of the values, 0 or 1 or scores, with its 95 % interval.

    Of shares it is Wilson's for as many independent answers as would be as uncertain (Korn and
    Graubard 1998, Survey Methodology 24:193, with Wilson's in place of the exact interval); where
    all are equal, items of one level count once. Of scores it is Student's t.
    Raises TooFewSamplesError where there is no value.
    """
    _check_some(values_N)
    value = float(values_N.mean())
    if _are_shares(values_N):
        return _share_interval(value, clusters, values_N - value, level)
    return mean_interval(values_N, clusters, level=level)


def mean_interval(values_N: Floats, clusters: Clusters, *, level: float = _LEVEL) -> Interval:
    """Mean of numbers that are no shares, whatever their values, with Student's interval."""
    _check_some(values_N)
    value = float(values_N.mean())
    return _t_interval(value, clusters.variance(values_N - value), level)


def positive_mean_interval(values_N: Floats, clusters: Clusters) -> Interval:
    """Mean of costs, which no one gets below 0 and few have much of, with its 95 % interval.

    Student's on the logarithm of the mean, with the larger of two variances: the delta method's and
    Cox's for lognormal values (Zhou and Gao 1997, Statistics in Medicine 16:783). A sample that
    lacks the long tail makes the first too small. Where all are 0, so are the ends.
    Raises TooFewSamplesError where there is no value.
    """
    _check_some(values_N)
    value = float(values_N.mean())
    if not value > 0:
        return Interval(value, value, value)
    variance = clusters.variance(values_N / value - 1)
    largest = variance.value
    if (values_N > 0).all() and len(values_N) > 1:
        log_N = np.log(values_N)
        levels = min(clusters.levels.values(), default=len(values_N))
        tail = float(log_N.var(ddof=1)) / 2 * levels / (levels - 1)
        largest = max(largest, clusters.variance(log_N - log_N.mean()).value * (1 + tail))
    reach = variance.quantile(_LEVEL) * largest**0.5 if largest > 0 else 0.0
    return Interval(value, float(value * np.exp(-reach)), float(value * np.exp(reach)))


def difference_interval(
    values_N: Floats, baseline_N: Floats, clusters: Clusters, *, level: float = _LEVEL
) -> Interval:
    """Mean of value minus baseline, item by item, with its 95 % interval.

    Of shares it is Newcombe's (1998, Statistics in Medicine 17:2635, method 10) from the intervals
    and the covariance that both arms have over the items' clusters; widened up to 0 where too few
    pairs differ to tell. Of scores it is Student's t.
    """
    _check_some(values_N)
    interval = _difference(values_N, baseline_N, clusters, level)
    if _fewest_p(values_N, baseline_N, clusters) > 1 - level:
        return Interval(interval.value, min(0.0, interval.low), max(0.0, interval.high))
    return interval


def paired_p_value(values_N: Floats, baseline_N: Floats, clusters: Clusters) -> float:
    """Two-sided p of no difference between two answers to the same items.

    The level from which on `difference_interval` holds 0, so that the two never contradict each
    other: 1 where nothing differs, and never less than 1e-12.
    """
    from scipy.optimize import brentq

    def nearer_end(p: float) -> float:
        """The end of the interval that lies towards 0, in the direction of the difference."""
        interval = _difference(values_N, baseline_N, clusters, 1 - p)
        return interval.low if interval.value > 0 else -interval.high

    if abs(float((values_N - baseline_N).mean())) < 1e-12:
        return 1.0
    p = _LEAST_P
    if nearer_end(p) <= 0:
        p = brentq(nearer_end, _LEAST_P, 1 - 1e-9, xtol=1e-12)
    return max(float(p), _fewest_p(values_N, baseline_N, clusters))


def _difference(values_N: Floats, baseline_N: Floats, clusters: Clusters, level: float) -> Interval:
    if _are_shares(values_N) and _are_shares(baseline_N):
        return _share_difference(values_N, baseline_N, clusters, level)
    differences_N = values_N - baseline_N
    value = float(differences_N.mean())
    return _t_interval(value, clusters.variance(differences_N - value), level)


def _fewest_p(values_N: Floats, baseline_N: Floats, clusters: Clusters) -> float:
    """The least p that so few pairs, or clusters, can give: by chance each differs either way.

    McNemar's with mid-p of independent pairs (Fagerland, Lydersen and Laake 2013, BMC Medical
    Research Methodology 13:91); of clusters, that all of the fewest levels lean one way. Scores
    that differ are as good as their variance says, unless all differ by the same.
    """
    from scipy.stats import binom

    differences_N = values_N - baseline_N
    if not (_are_shares(values_N) and _are_shares(baseline_N)) and np.ptp(differences_N) > 0:
        return 0.0
    if clusters.codes:
        return float(0.5 ** min(clusters.levels.values()))
    up, down = int((differences_N > 0).sum()), int((differences_N < 0).sum())
    fewer, pairs = min(up, down), up + down
    return min(1.0, float(2 * binom.cdf(fewer, pairs, 0.5) - binom.pmf(fewer, pairs, 0.5)))


def _t_interval(value: float, variance: Variance, level: float) -> Interval:
    reach = variance.quantile(level) * variance.value**0.5 if variance.value > 0 else 0.0
    return Interval(value, value - reach, value + reach)


def _share_interval(
    share: float, clusters: Clusters, influence_N: Floats, level: float
) -> Interval:
    """Wilson's interval of a share, at the number of independent items that it is worth."""
    count = _effective_items(share, clusters, influence_N)
    z = (
        clusters.variance(influence_N).quantile(level)
        if clusters.codes
        else Variance(0.0, np.inf).quantile(level)
    )
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    # An end at 0 or 1 is exact: rounding may not push the share out of its own interval.
    return Interval(
        share, max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))
    )


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
    first = _share_interval(shares[0], clusters, first_I, level)
    second = _share_interval(shares[1], clusters, second_I, level)
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


def _are_shares(values_N: Floats) -> bool:
    return set(np.unique(values_N)) <= {0.0, 1.0}


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


# --- correlation and agreement ---


def clustered_correlation(x_N: Floats, y_N: Floats, clusters: Clusters) -> Interval:
    """Pearson's r of two numbers per item, with a 95 % interval over the items' clusters.

    Fisher's z with Student's t. Its variance is from how much each item moves r, and no less than
    leaving out each level of a factor in turn gives (the jackknife; Efron and Stein 1981, Annals of
    Statistics 9:586): far items move r by more than their share.
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
    if abs(r) >= 1 - 1e-12:
        return Interval(r, r, r)
    influence_N = (x_N * y_N - r * (x_N**2 + y_N**2) / 2) / (1 - r**2)
    variance = clusters.variance(influence_N)
    excess = max(_leverage(x_N, y_N, codes_N, influence_N) for codes_N in clusters.binding.values())
    reach = variance.quantile(_LEVEL) * (variance.value * max(1.0, excess)) ** 0.5
    low, high = np.tanh(np.arctanh(r) + np.array([-reach, reach]))
    return Interval(r, float(low), float(high))


def _leverage(x_N: Floats, y_N: Floats, codes_N: Codes, influence_N: Floats) -> float:
    """Variance of Fisher's z by leaving out each level in turn, as a multiple of the linear one.

    `x_N` and `y_N` have mean 0 and standard deviation 1, `influence_N` is that on z.
    """
    powers = (np.ones(len(x_N)), x_N, y_N, x_N**2, y_N**2, x_N * y_N)
    left = [part.sum() - np.bincount(codes_N, weights=part) for part in powers]
    count_G, x_G, y_G, xx_G, yy_G, xy_G = left
    scale_G = (xx_G - x_G**2 / count_G) * (yy_G - y_G**2 / count_G)
    if len(count_G) < 3 or not (scale_G > 0).all():
        return 1.0
    r_G = (xy_G - x_G * y_G / count_G) / np.sqrt(scale_G)
    z_G = np.arctanh(np.clip(r_G, -1 + 1e-9, 1 - 1e-9))
    linear_G = np.bincount(codes_N, weights=influence_N) / len(x_N)
    levels = len(z_G)
    jackknife = (levels - 1) / levels * float(((z_G - z_G.mean()) ** 2).sum())
    return jackknife / max(1e-30, levels / (levels - 1) * float((linear_G**2).sum()))


def contingency_table(rows_N: Codes, columns_N: Codes, labels: int) -> NDArray[np.int64]:
    """Number of cases by first label (row) and second (column), labels given as 0-based codes."""
    return np.bincount(rows_N * labels + columns_N, minlength=labels**2).reshape(labels, labels)


def cohens_kappa(table: NDArray[np.int64]) -> float | None:
    """(agreement − chance) / (1 − chance), Cohen 1960; None where chance alone agrees always."""
    share = table / table.sum()
    chance = float(share.sum(1) @ share.sum(0))
    if chance >= 1 - 1e-12:
        return None
    return (float(np.trace(share)) - chance) / (1 - chance)


def kappa_interval(
    rows_N: Codes, columns_N: Codes, labels: int, clusters: Clusters
) -> Interval | None:
    """Cohen's κ of two labels per case, with its 95 % interval over the cases' clusters.

    Wilson's interval of the share that agrees, at the number of cases that makes it as uncertain
    as κ is by its influence function (Fleiss, Cohen and Everitt 1969, Psychological Bulletin
    72:323), chance agreement taken as it is. None where both gave the same label throughout, since
    κ is then undefined.
    """
    table = contingency_table(rows_N, columns_N, labels)
    kappa = cohens_kappa(table)
    if kappa is None:
        return None
    rows_K, columns_K = table.sum(1) / table.sum(), table.sum(0) / table.sum()
    chance = float(rows_K @ columns_K)
    same_N = (rows_N == columns_N).astype(np.float64)
    agreed = float(same_N.mean())
    chance_N = columns_K[rows_N] + rows_K[columns_N] - 2 * chance
    # As much as κ, on the scale of agreement: what chance adds is taken off.
    influence_N = same_N - agreed - (1 - kappa) * chance_N
    ends = _share_interval(agreed, clusters, influence_N, _LEVEL)
    low, high = ((end - chance) / (1 - chance) for end in (ends.low, ends.high))
    return Interval(kappa, low, high)
