"""Bootstrap intervals: of roles and questions, for answers in one role are not independent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keel.errors import TooFewSamplesError
from keel.types import Interval

Floats = NDArray[np.float64]


def interval(values_S: Floats) -> Interval:
    """The first value, that of the data as they are, with the middle 95 % of the others.

    A resample in which nothing was left to compare is NaN, and left out. The interval holds its
    value, even where resampling pulls all one way.
    """
    value, resampled_S = float(values_S[0]), values_S[1:][np.isfinite(values_S[1:])]
    if not len(resampled_S):
        raise TooFewSamplesError(
            f"none of {len(values_S) - 1} resamples drew default and role answers together; ask "
            "both the same questions, or raise bootstrap"
        )
    low, high = np.percentile(resampled_S, [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)))
