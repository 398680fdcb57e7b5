"""The errors by which a check fails or is skipped, and the comparison that most checks make."""

from __future__ import annotations

import torch
from torch import Tensor

_TOLERANCE, _TOLERANCE_HALF = 1e-3, 5e-2
"""Of the reference's largest number. A cache that is wrong is off by about 1, rounding in float32
by 1e-6 at each block; in half precision an expert's choice may fall otherwise."""


class CheckFailedError(Exception):
    """The model, or Keel on it, gives something else than it should; the text says what."""


class CheckSkippedError(Exception):
    """The check has nothing to look at in this model; the text says why."""


def check_close(
    actual: Tensor, expected: Tensor, what: str, *, dtype: torch.dtype = torch.float32
) -> float:
    """Raises CheckFailedError unless two tensors agree up to rounding in a model of that dtype.

    The difference that is returned is the largest, as a share of the largest expected number.
    """
    if actual.shape != expected.shape:
        raise CheckFailedError(
            f"{what} have shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
        )
    if not bool(torch.isfinite(actual).all()):
        raise CheckFailedError(f"{what} hold NaN or Inf")
    scale = float(expected.abs().max().clamp_min(1e-6))
    off = float((actual.float() - expected.float()).abs().max()) / scale
    if off > (_TOLERANCE if dtype == torch.float32 else _TOLERANCE_HALF):
        raise CheckFailedError(f"{what} differ by {off:.2g} of their scale ({scale:.3g})")
    return off
