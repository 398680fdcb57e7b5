"""Intervals, tests and agreement: every statistic that more than one stage needs.

Knows numbers and the names of factors' levels, nothing of answers, roles or judges. A suffix `_N`
counts items, `_S` draws (resamples), `_L` levels of a factor.
"""

from keel.statistics.association import (
    clustered_correlation,
    cohens_kappa,
    contingency_table,
    kappa_interval,
)
from keel.statistics.clusters import (
    FEWEST_LEVELS,
    LEVEL,
    Clusters,
    Codes,
    Floats,
    Variance,
    jackknifed,
)
from keel.statistics.intervals import (
    difference_interval,
    exact_rate_interval,
    holm,
    independent_difference,
    is_too_skewed,
    mean_interval,
    most_unseen,
    paired_p_value,
    percentile_interval,
    positive_mean_interval,
    rate_interval,
    share_of_groups_interval,
)

__all__ = [
    "FEWEST_LEVELS",
    "LEVEL",
    "Clusters",
    "Codes",
    "Floats",
    "Variance",
    "clustered_correlation",
    "cohens_kappa",
    "contingency_table",
    "difference_interval",
    "exact_rate_interval",
    "holm",
    "independent_difference",
    "is_too_skewed",
    "jackknifed",
    "kappa_interval",
    "mean_interval",
    "most_unseen",
    "paired_p_value",
    "percentile_interval",
    "positive_mean_interval",
    "rate_interval",
    "share_of_groups_interval",
]
