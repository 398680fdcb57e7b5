"""Intervals written plainly from the literature: what `keel.statistics` must give.

Knows nothing of how Keel computes them; loops in place of arrays.
"""

from __future__ import annotations

from math import sqrt

from scipy.stats import norm


def wilson(ones: int, count: int) -> tuple[float, float]:
    """Wilson (1927), Journal of the American Statistical Association 22:209: score interval."""
    z = norm.ppf(0.975)
    share = ones / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z * sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return middle - reach, middle + reach


def newcombe(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """Newcombe (1998), Statistics in Medicine 17:2635: method 10, with its corrected φ."""
    count = both + first + second + neither
    low_1, high_1 = wilson(both + first, count)
    low_2, high_2 = wilson(both + second, count)
    share_1, share_2 = (both + first) / count, (both + second) / count
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    phi = 0.0
    if margins:
        excess = both * neither - first * second
        if excess > 0:
            excess = max(0.0, excess - count / 2)
        phi = excess / sqrt(margins)
    down_1, up_1 = share_1 - low_1, high_1 - share_1
    down_2, up_2 = share_2 - low_2, high_2 - share_2
    difference = share_1 - share_2
    low = difference - sqrt(down_1**2 - 2 * phi * down_1 * up_2 + up_2**2)
    high = difference + sqrt(up_1**2 - 2 * phi * up_1 * down_2 + down_2**2)
    return low, high


def crossed_variance(values: list[list[float]]) -> float:
    """Variance of the mean of a persona × request table, as Cameron, Gelbach and Miller (2011) have
    it, J. Business & Economic Statistics 29:238: rows, plus columns, less cells; never under the
    larger of rows and columns."""
    rows, columns = len(values), len(values[0])
    count = rows * columns
    mean = sum(sum(row) for row in values) / count
    by_row = sum((sum(row) - columns * mean) ** 2 for row in values)
    by_column = sum(
        (sum(row[column] for row in values) - rows * mean) ** 2 for column in range(columns)
    )
    by_cell = sum((value - mean) ** 2 for row in values for value in row)
    by_row *= rows / (rows - 1) / count**2
    by_column *= columns / (columns - 1) / count**2
    by_cell *= count / (count - 1) / count**2
    return max(by_row, by_column, by_row + by_column - by_cell)


def disattenuated_cosine(first: list[list[float]], second: list[list[float]]) -> float:
    """Spearman (1904), American Journal of Psychology 15:72: products between different halves of
    the data over the geometric mean of products within, here of all pairs of different folds."""
    folds = range(len(first))

    def product(one: list[list[float]], other: list[list[float]]) -> float:
        pairs = [
            sum(x * y for x, y in zip(one[f], other[g], strict=True))
            for f in folds
            for g in folds
            if f != g
        ]
        return sum(pairs) / len(pairs)

    return product(first, second) / sqrt(product(first, first) * product(second, second))
