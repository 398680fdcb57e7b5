"""Intervals, tests and agreement: every statistic that more than one stage needs.

Knows numbers and the names of factors' levels, nothing of answers, roles or judges. All intervals
are of 95 %. A suffix `_N` counts items, `_S` draws (resamples), `_L` levels of a factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from keel.errors import TooFewSamplesError
from keel.types import Interval

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

DRAWS = 2000
FEWEST_LEVELS = 8
"""A factor with fewer levels is taken as it is: resampling five questions says nothing of a sixth,
and the result holds for those five."""
_LEVEL = 0.95
_ENDS = (2.5, 97.5)
_EXACT_LEVELS = 16
"""Up to so many levels that differ, all 2^n signs are tried."""
_FLIPS = 20_000
_CELLS_AT_ONCE = 4_000_000
"""Weights held in memory at a time, draws × items."""


# --- bootstrap of independent units ---


def bootstrap_indices(count: int, resamples: int, seed: int) -> Int[Tensor, "resample unit"]:
    """Indices of units drawn with replacement; the first row is each unit once."""
    generator = torch.Generator().manual_seed(seed)
    drawn_SN = torch.randint(count, (resamples, count), generator=generator)
    return torch.cat([torch.arange(count)[None], drawn_SN])


def draw_counts(drawn_SN: Int[Tensor, "resample unit"]) -> Float[Tensor, "resample unit"]:
    """How often each unit is drawn, from the indices of as many units drawn."""
    counts_SN = torch.zeros(drawn_SN.shape, dtype=torch.float64)
    return counts_SN.scatter_add_(1, drawn_SN, torch.ones_like(counts_SN))


def percentile_interval(value: float, resampled_S: Floats) -> Interval:
    """The value with the middle 95 % of its resamples, widened where they miss the value itself.

    A resample in which nothing was left to compare is NaN, and left out. Raises TooFewSamplesError
    where none is left.
    """
    finite_S = resampled_S[np.isfinite(resampled_S)]
    if not len(finite_S):
        raise TooFewSamplesError(
            f"none of {len(resampled_S)} resamples drew anything to compare; ask the same "
            "questions of all (default and roles), or draw more resamples (bootstrap)"
        )
    low, high = np.percentile(finite_S, _ENDS)
    return Interval(value, min(value, float(low)), max(value, float(high)))


# --- bootstrap of items that share factors ---


def binding_factors(factors: Sequence[Mapping[str, str]]) -> dict[str, Codes]:
    """Factor -> level of each item, of the factors that make items depend on each other.

    Left out are factors with fewer than `FEWEST_LEVELS` levels, and those of which no two items
    share a level. An item that lacks a factor has a level of its own there.
    """
    binding = {}
    for name in sorted({name for item in factors for name in item}):
        named = [item.get(name, f"\0{index}") for index, item in enumerate(factors)]
        levels, codes = np.unique(np.array(named, dtype=object), return_inverse=True)
        if FEWEST_LEVELS <= len(levels) < len(factors):
            binding[name] = codes.reshape(-1)
    return binding


@dataclass(frozen=True)
class Resampling:
    """Weights of items in many draws: the same draws for every number of one evaluation.

    In each draw the levels of every factor are drawn with replacement, and an item counts as
    often as the product of its levels' counts: the pigeonhole bootstrap (Owen 2007, Annals of
    Applied Statistics 1:386). Without factors, items are drawn.
    """

    codes: Mapping[str, Codes]
    """Factor -> level of each item."""
    counts: tuple[NDArray[np.int64], ...]
    """Per factor: draw × level, how often it was drawn."""
    items: int

    @classmethod
    def of(
        cls, factors: Sequence[Mapping[str, str]], *, draws: int = DRAWS, seed: int = 0
    ) -> Resampling:
        """Draws for items with these factors; the same arguments draw the same."""
        codes = binding_factors(factors) or {"item": np.arange(len(factors))}
        generator = np.random.default_rng(seed)
        counts = []
        for codes_N in codes.values():
            levels = int(codes_N.max()) + 1
            counts.append(generator.multinomial(levels, np.full(levels, 1 / levels), size=draws))
        return cls(codes, tuple(counts), len(factors))

    def means(self, columns: Sequence[Floats]) -> Floats:
        """Weighted mean of each column (one number per item) in every draw: [draw, column].

        NaN where a draw holds none of the items.
        """
        values_NK = np.stack([np.ones(self.items), *columns], 1)
        sums_SK = np.concatenate([weights_SN @ values_NK for weights_SN in self._weights()])
        with np.errstate(invalid="ignore"):
            return np.asarray(sums_SK[:, 1:] / sums_SK[:, :1], dtype=np.float64)

    def only(self, kept_N: NDArray[np.bool_]) -> Resampling:
        """The same draws for some of the items."""
        codes = {name: codes_N[kept_N] for name, codes_N in self.codes.items()}
        return Resampling(codes, self.counts, int(kept_N.sum()))

    def interval(self, value: float, drawn_S: Floats, influence_N: Floats) -> Interval:
        """The value with the middle 95 % of its draws, shrunk to the variance that it has.

        With crossed factors the draws spread too far: noise that belongs to single items counts
        once per factor and once more (three times, with two). So they are drawn together until
        their variance is that of Cameron, Gelbach and Miller (2011, J. Business & Economic
        Statistics 29:238): the sum over factors, less what they share. Never apart.
        `influence_N` is how much each item moves the value, times the number of items.
        """
        drawn_S = drawn_S[np.isfinite(drawn_S)]
        spread = float(drawn_S.std()) if len(drawn_S) else 0.0
        if spread == 0:
            return Interval(value, value, value)
        share = min(1.0, self._variance(influence_N) ** 0.5 / spread)
        low, high = value + share * (np.percentile(drawn_S, _ENDS) - value)
        return Interval(value, min(value, float(low)), max(value, float(high)))

    def _weights(self) -> Iterator[Floats]:
        """Weights of items, draw × item, some draws at a time."""
        rows = max(1, _CELLS_AT_ONCE // max(1, self.items))
        for start in range(0, len(self.counts[0]), rows):
            product = np.ones((1, self.items))
            for codes_N, counts_SL in zip(self.codes.values(), self.counts, strict=True):
                product = product * counts_SL[start : start + rows][:, codes_N]
            yield product

    def _variance(self, influence_N: Floats) -> float:
        """Variance of a number with these influences; at least that of its worst factor alone."""
        alone = [self._clustered_variance([name], influence_N) for name in self.codes]
        together = sum(
            (-1) ** (size + 1) * self._clustered_variance(names, influence_N)
            for size in range(1, len(self.codes) + 1)
            for names in combinations(self.codes, size)
        )
        fewest = min(counts_SL.shape[1] for counts_SL in self.counts)
        return max(*alone, together) * fewest / (fewest - 1) if fewest > 1 else 0.0

    def _clustered_variance(self, names: Sequence[str], influence_N: Floats) -> float:
        """Variance where items that share a level of all these factors move together."""
        key_N = np.zeros(self.items, dtype=np.intp)
        for name in names:
            key_N = key_N * (int(self.codes[name].max()) + 1) + self.codes[name]
        _, cells_N = np.unique(key_N, return_inverse=True)
        sums_C = np.bincount(cells_N.reshape(-1), weights=influence_N)
        return float((sums_C**2).sum()) / self.items**2


# --- rates and differences ---


def rate_interval(values_N: Floats, draws: Resampling) -> Interval:
    """Mean of the values, 0 or 1 or scores, with its 95 % interval.

    Of shares the interval is never narrower than Wilson's for as many independent answers: where
    all are equal, resampling shows no spread at all. It is the smallest that holds both.
    Raises TooFewSamplesError where there is no value.
    """
    _check_some(values_N)
    value = float(values_N.mean())
    interval = draws.interval(value, draws.means([values_N])[:, 0], values_N - value)
    return _hull(interval, wilson(values_N)) if _are_shares(values_N) else interval


def difference_interval(values_N: Floats, baseline_N: Floats, draws: Resampling) -> Interval:
    """Mean of value minus baseline, item by item, with its 95 % interval.

    Of shares never narrower than Newcombe's for as many independent pairs; see `rate_interval`.
    """
    _check_some(values_N)
    differences_N = values_N - baseline_N
    value = float(differences_N.mean())
    drawn_S = draws.means([differences_N])[:, 0]
    interval = draws.interval(value, drawn_S, differences_N - value)
    if not (_are_shares(values_N) and _are_shares(baseline_N)):
        return interval
    return _hull(interval, newcombe(values_N, baseline_N))


def wilson(values_N: NDArray[np.generic]) -> Interval:
    """Share of ones with Wilson's score interval, as if the values (0 or 1) were independent."""
    from scipy.stats import binomtest

    ones, count = round(float(values_N.sum())), len(values_N)
    ends = binomtest(ones, count).proportion_ci(_LEVEL, method="wilson")
    return Interval(ones / count, float(ends.low), float(ends.high))


def newcombe(first_N: Floats, second_N: Floats) -> Interval:
    """Difference of two paired shares, as if pairs were independent.

    Method 10 of Newcombe (1998, Statistics in Medicine 17:2635): Wilson's intervals of both, put
    together with their correlation.
    """
    first, second = wilson(first_N), wilson(second_N)
    phi = _phi(first_N, second_N)
    difference = first.value - second.value
    down, up = first.value - first.low, second.high - second.value
    low = difference - max(0.0, down**2 - 2 * phi * down * up + up**2) ** 0.5
    down, up = second.value - second.low, first.high - first.value
    high = difference + max(0.0, down**2 - 2 * phi * down * up + up**2) ** 0.5
    return Interval(difference, low, high)


def _phi(first_N: Floats, second_N: Floats) -> float:
    """Correlation of two paired shares, as Newcombe corrects it; 0 where either does not vary."""
    count = len(first_N)
    both = float((first_N * second_N).sum())
    first, second = float(first_N.sum()), float(second_N.sum())
    product = first * (count - first) * second * (count - second)
    if product == 0:
        return 0.0
    excess = both * (count - first - second + both) - (first - both) * (second - both)
    if excess > 0:
        excess = max(0.0, excess - count / 2)
    return float(excess / product**0.5)


def _hull(interval: Interval, other: Interval) -> Interval:
    return Interval(interval.value, min(interval.low, other.low), max(interval.high, other.high))


def _are_shares(values_N: Floats) -> bool:
    return set(np.unique(values_N)) <= {0.0, 1.0}


def _check_some(values_N: Floats) -> None:
    if not len(values_N):
        raise TooFewSamplesError(
            "no answer was judged, so there is no rate; look at the verdicts' reasons"
        )


# --- tests ---


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
    binding = binding_factors(factors)
    if not binding and set(np.unique(differences_N)) <= {-1.0, 0.0, 1.0}:
        return _mcnemar(differences_N)
    levels = binding or {"item": np.arange(len(differences_N))}
    return max(_sign_flip_p(differences_N, codes_N, seed) for codes_N in levels.values())


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Each p after Holm's correction for having tested all of them (Holm 1979)."""
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = highest
    return corrected


def _sign_flip_p(differences_N: Floats, codes_N: Codes, seed: int) -> float:
    sums_L = np.bincount(codes_N, weights=differences_N)
    sums_L = sums_L[np.abs(sums_L) > 1e-12]
    observed = abs(float(sums_L.sum())) - 1e-9
    if len(sums_L) <= _EXACT_LEVELS:
        bits = np.arange(2 ** len(sums_L))[:, None] >> np.arange(len(sums_L))
        reached = np.abs((1 - 2 * (bits & 1)) @ sums_L) >= observed
        return float(reached.mean())
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(10):  # ten parts, for memory's sake
        signs = 1 - 2 * generator.integers(0, 2, size=(_FLIPS // 10, len(sums_L)), dtype=np.int8)
        hits += int((np.abs(signs @ sums_L) >= observed).sum())
    return (1 + hits) / (1 + _FLIPS)


def _mcnemar(differences_N: Floats) -> float:
    """McNemar's test, exact: of the pairs that differ, half should differ either way."""
    from scipy.stats import binomtest

    up, down = int((differences_N > 0).sum()), int((differences_N < 0).sum())
    return float(binomtest(up, up + down).pvalue) if up + down else 1.0


# --- correlation and agreement ---


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
    rows_N: Codes, columns_N: Codes, labels: int, *, resamples: int, seed: int
) -> Interval | None:
    """Cohen's κ of two labels per case, with the interval of resampled cases.

    None where both gave the same label throughout, since κ is then undefined.
    """
    value = cohens_kappa(contingency_table(rows_N, columns_N, labels))
    if value is None:
        return None
    generator = np.random.default_rng(seed)
    resampled = []
    for _ in range(resamples):
        drawn_N = generator.integers(len(rows_N), size=len(rows_N))
        kappa = cohens_kappa(contingency_table(rows_N[drawn_N], columns_N[drawn_N], labels))
        # A resample of a single label says nothing against agreement: all of it is the same.
        resampled.append(1.0 if kappa is None else kappa)
    return percentile_interval(value, np.array(resampled))
