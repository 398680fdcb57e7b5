"""How answers move: from label to label under an arm, and with where the first answer stood.

Knows numbers and names only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from keel.statistics import Floats, Resampling, difference_interval, rate_interval
from keel.types import Interval, RateInRange

_BINS = 8
_FEWEST_IN_BIN = 10


def label_shifts(
    labels: Sequence[str | None],
    plain: Sequence[str | None],
    names: Sequence[str],
    draws: Resampling,
) -> dict[str, Interval]:
    """Share of each label minus its share unsteered, over the items judged under both.

    Labels are one per item, None where it was not judged. Each interval is of 95 % by itself:
    of ten labels that stay as they are, one in two times some label seems to shift.
    """
    both_N = np.array([None not in pair for pair in zip(labels, plain, strict=True)], dtype=bool)
    if not both_N.any():
        return {}
    kept = draws.only(both_N)
    return {
        name: difference_interval(_is(name, labels)[both_N], _is(name, plain)[both_N], kept)
        for name in names
        if name in labels or name in plain
    }


def rates_by_place(
    places_N: Floats,
    values_N: Floats,
    draws: Resampling,
    *,
    in_gaps: Callable[[float], float] | None = None,
    bins: int = _BINS,
) -> tuple[RateInRange, ...]:
    """The rate among answers whose first turns stood alike, from the least Assistant-like up.

    `places_N` are raw projections, of which NaN is left out. Bins hold as many answers each, ten
    at least; there are none where that would leave fewer than two.
    """
    known_N = np.isfinite(places_N) & np.isfinite(values_N)
    bins = min(bins, int(known_N.sum()) // _FEWEST_IN_BIN)
    if bins < 2:
        return ()
    edges = np.unique(np.quantile(places_N[known_N], np.linspace(0, 1, bins + 1)))
    # The right edge belongs to the bin on its left, but for the first edge of all.
    bin_N = np.clip(np.searchsorted(edges, places_N, side="left") - 1, 0, None)
    unit: Literal["gaps", "raw"] = "raw" if in_gaps is None else "gaps"
    told = (lambda raw: raw) if in_gaps is None else in_gaps
    found = []
    for place in range(len(edges) - 1):
        mask_N = known_N & (bin_N == place)
        if mask_N.any():
            rate = rate_interval(values_N[mask_N], draws.only(mask_N))
            low, high = told(float(edges[place])), told(float(edges[place + 1]))
            found.append(RateInRange(low, high, int(mask_N.sum()), rate, unit))
    return tuple(found)


def _is(name: str, labels: Sequence[str | None]) -> Floats:
    return np.array([float(label == name) for label in labels])
