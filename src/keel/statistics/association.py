"""Correlation of two numbers, and agreement of two labels, per item."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keel.errors import TooFewSamplesError
from keel.statistics.clusters import LEVEL, Clusters, Codes, Floats
from keel.statistics.intervals import most_unseen, share_interval
from keel.types import Interval


def clustered_correlation(x_N: Floats, y_N: Floats, clusters: Clusters) -> Interval:
    """Pearson's r of two numbers per item, with a 95 % interval over the items' clusters.

    Fisher's z with Student's t. Its variance is from how much each item moves r, and no less than
    leaving out each level of a factor in turn gives (the jackknife; Efron and Stein 1981, Annals of
    Statistics 9:586): far items move r by more than their share. A perfect one is bounded as if as
    many other items as none of so few rules out broke the pattern wholly; −1 to 1 for one level.
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
    if clusters.is_single:
        return Interval(r, -1.0, 1.0)
    if abs(r) >= 1 - 1e-12:
        breaking = most_unseen(clusters)
        sign = float(np.sign(r))
        return Interval(sign, *sorted((sign, sign * (1 - 2 * breaking))))
    influence_N = (x_N * y_N - r * (x_N**2 + y_N**2) / 2) / (1 - r**2)
    variance = clusters.variance(influence_N)
    excess = max(_leverage(x_N, y_N, codes_N, influence_N) for codes_N in clusters.binding.values())
    reach = variance.quantile(LEVEL) * (variance.value * max(1.0, excess)) ** 0.5
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
    72:323), chance agreement taken as it is; of one level, all that κ can be. None where both gave
    the same label throughout, since κ is then undefined.
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
    ends = Interval(agreed, 0.0, 1.0)
    if not clusters.is_single:
        ends = share_interval(agreed, clusters, influence_N, LEVEL)
    low, high = ((end - chance) / (1 - chance) for end in (ends.low, ends.high))
    return Interval(kappa, low, high)
