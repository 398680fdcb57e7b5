"""Statistics over names, with intervals of names drawn anew."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keel.statistics import percentile_interval
from keel.types import Interval


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
    value, resampled_S = float(values_S[0]), values_S[1:]
    if not bool(torch.isfinite(resampled_S).any()):
        return Interval(value, value, value)
    return percentile_interval(value, resampled_S.numpy())
