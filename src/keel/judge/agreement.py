"""Agreement of two judges on the same cases: share, Cohen's κ, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keel.errors import TooFewSamplesError
from keel.statistics import Clusters, contingency_table, kappa_interval, rate_interval
from keel.types import Interval

_BINS = 10
_FEWEST = 2


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree on the same cases."""

    n: int
    """Cases that both labelled."""
    only_a: int
    """Cases that the first labelled and the second did not."""
    only_b: int
    agreement: Interval
    """Share (0 to 1) of cases with the same label."""
    kappa: Interval | None
    """Cohen's κ: 0 is what chance would give, 1 is perfect. None where both judges
    gave one and the same label throughout: nothing is left to chance."""
    labels: tuple[str, ...]
    """Every label that either gave: rows and columns of the table."""
    table: tuple[tuple[int, ...], ...]
    """Cases by the first judge's label (row) and the second's (column)."""
    calibration_error_a: float | None = None
    """How far (0 to 1) the first judge's confidence is from the share of its labels that the
    second confirms, on average over ten bins; None where it gave no confidences."""
    calibration_error_b: float | None = None


def agree(
    a: Mapping[str, str],
    b: Mapping[str, str],
    *,
    confidences_a: Mapping[str, float] | None = None,
    confidences_b: Mapping[str, float] | None = None,
) -> Agreement:
    """Compare two maps of case id -> label over the cases that both hold.

    Answers to one item under several arms are not independent cases: what stands before the `#` of
    an id is the item. Intervals are of 95 %, over items.

    Raises TooFewSamplesError where fewer than two cases are in both.
    """
    ids = [id for id in a if id in b]
    if len(ids) < _FEWEST:
        raise TooFewSamplesError(
            f"{len(ids)} cases were labelled by both (of {len(a)} and {len(b)}), expected "
            f"{_FEWEST} or more; compare judges of the same answers, by the same ids"
        )
    labels = sorted({a[id] for id in ids} | {b[id] for id in ids}, key=_in_order)
    rows_N, columns_N = (np.array([labels.index(m[id]) for id in ids]) for m in (a, b))
    same_N = rows_N == columns_N
    # However few items there are: of one under many arms nothing follows for others.
    clusters = Clusters.of([{"item": id.partition("#")[0]} for id in ids], fewest=1)
    table = contingency_table(rows_N, columns_N, len(labels))
    return Agreement(
        n=len(ids),
        only_a=len(a) - len(ids),
        only_b=len(b) - len(ids),
        agreement=rate_interval(same_N.astype(np.float64), clusters),
        kappa=kappa_interval(rows_N, columns_N, len(labels), clusters),
        labels=tuple(labels),
        table=tuple(tuple(int(n) for n in row) for row in table),
        calibration_error_a=_calibration_error(ids, same_N, confidences_a),
        calibration_error_b=_calibration_error(ids, same_N, confidences_b),
    )


def _in_order(label: str) -> tuple[float, str]:
    """Numbers by size, then words."""
    try:
        return (float(label), label)
    except ValueError:
        return (float("inf"), label)


def _calibration_error(
    ids: Sequence[str], same_N: NDArray[np.bool_], confidences: Mapping[str, float] | None
) -> float | None:
    """Expected calibration error (Guo et al. 2017), over the cases that have a confidence."""
    held = [(confidences[id], bool(s)) for id, s in zip(ids, same_N, strict=True)
            if confidences and id in confidences]  # fmt: skip
    if not held:
        return None
    sure_N, right_N = (np.array(column, dtype=float) for column in zip(*held, strict=True))
    bin_N = np.minimum((sure_N * _BINS).astype(int), _BINS - 1)
    gaps = [
        (bin_N == bin).sum() * abs(sure_N[bin_N == bin].mean() - right_N[bin_N == bin].mean())
        for bin in np.unique(bin_N)
    ]
    return float(sum(gaps) / len(held))
