"""Statistics over names, with intervals of names drawn anew."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from keel.types import Interval

Floats = NDArray[np.float64]


def draw_names(count: int, resamples: int, seed: int) -> Int[Tensor, "resample name"]:
    """Places of the names drawn; first row: each once."""
    draw = torch.Generator().manual_seed(seed)
    drawn_SN = torch.randint(count, (resamples, count), generator=draw)
    return torch.cat([torch.arange(count)[None], drawn_SN])


def correlate(
    first_N: Tensor, second_N: Tensor, drawn_SN: Int[Tensor, "resample name"]
) -> Float[Tensor, " resample"]:
    """Pearson's r of each draw; NaN where one of the two does not vary."""
    first_SN, second_SN = first_N.double()[drawn_SN], second_N.double()[drawn_SN]
    first_SN = first_SN - first_SN.mean(1, keepdim=True)
    second_SN = second_SN - second_SN.mean(1, keepdim=True)
    scale_S = first_SN.norm(dim=1) * second_SN.norm(dim=1)
    return (first_SN * second_SN).sum(1) / torch.where(scale_S > 0, scale_S, torch.nan)


def interval_of(values_S: Float[Tensor, " resample"]) -> Interval:
    """The first value with the middle 95 % of the others; it always holds its value."""
    value, others_S = float(values_S[0]), values_S[1:][torch.isfinite(values_S[1:])]
    if not len(others_S):
        return Interval(value, value, value)
    low, high = np.percentile(others_S.numpy(), [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)))
