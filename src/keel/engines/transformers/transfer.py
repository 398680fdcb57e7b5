"""Copies numbers from the device to the host while both go on working."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transfer:
    """Tensors of one device on their way to the host, as they were when the transfer began."""

    tensors: tuple[Tensor, ...]
    is_done: Any
    """A CUDA event behind the copies; None where there is nothing to wait for."""

    @classmethod
    def begin(cls, *tensors: Tensor) -> Transfer:
        """Queue the copies behind the work that the device has; nothing waits."""
        copies = tuple(t.to("cpu", non_blocking=t.is_cuda, copy=True) for t in tensors)
        if not tensors or not tensors[0].is_cuda:
            return cls(copies, None)
        is_done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        # Not the current device's stream: the model may run on another GPU.
        is_done.record(torch.cuda.current_stream(tensors[0].device))
        return cls(copies, is_done)

    def finish(self) -> tuple[Tensor, ...]:
        """The tensors on the host, waited for if need be."""
        if self.is_done is not None:
            self.is_done.synchronize()
        return self.tensors


def sent(indices: Sequence[int], device: torch.device) -> Tensor:
    """Indices as a tensor on the device, which need not have finished its work."""
    tensor = torch.tensor(indices, dtype=torch.long, pin_memory=device.type == "cuda")
    return tensor.to(device, non_blocking=True)
