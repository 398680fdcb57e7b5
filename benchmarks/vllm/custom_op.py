"""The same steering as one custom op that the compiler cannot look into, to be measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from keel.engines.vllm.layers import SteeredLayer
from keel.geometry import shift


@torch.library.custom_op("keel_bench::steer", mutates_args=("tally_S2",))
def steer(
    hidden: Tensor,
    residual: Tensor,
    phase_T: Tensor,
    directions_SKD: Tensor,
    numbers_PKN: Tensor,
    is_bound_SK: Tensor,
    tally_row_T: Tensor,
    tally_S2: Tensor,
) -> Tensor:
    """One intervention per token, as `SteeredLayer._steer` does it, run outside the graph."""
    stream = hidden.float() + residual.float()
    slot = phase_T >> 1
    direction = directions_SKD[slot, 0]
    projection = (stream * direction).sum(-1)
    slope, offset, low, high = numbers_PKN[phase_T, 0].unbind(-1)
    amount = shift(projection, slope, offset, low, high)
    fired = (amount != 0) & is_bound_SK[slot, 0]
    counts = torch.stack([torch.ones_like(fired), fired], -1).to(torch.int64)
    tally_S2.index_add_(0, tally_row_T, counts)
    return (hidden.float() + amount[:, None] * direction).to(hidden.dtype)


@steer.register_fake
def _(hidden: Tensor, *others: Tensor) -> Tensor:
    return torch.empty_like(hidden)


def use() -> None:
    """Let held layers steer by the op, in this process, from the next trace on."""

    def _steer(self: SteeredLayer, hidden: Tensor, residual: Tensor | None) -> Tensor:
        assert residual is not None, "the op is written for layers that return a pair"
        tokens = hidden.shape[0]
        return steer(
            hidden,
            residual,
            self.phase_T[:tokens],
            self.directions_SKD,
            self.numbers_PKN,
            self.is_bound_SK,
            self.tally_row_T[:tokens],
            self.tally_S2,
        )

    SteeredLayer._steer = _steer  # type: ignore[method-assign]
