"""Hands what a worker has recorded to the engine's process: sums through memory that both map.

The sums of an answer are a vector a layer, half a megabyte for a model of 8B; to send them in a
message copies them five times. The file that holds them is unlinked as soon as both have it open,
so that nothing is left behind by a process that is killed. Where the two share no memory (a worker
on another machine, a full /dev/shm) the sums travel in the message. Knows no requests.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

_MEMORY = Path("/dev/shm")
"""Files in memory, on Linux."""


class SumsBuffer:
    """A worker's end: one file, which grows to the largest sums that were handed over."""

    def __init__(self) -> None:
        self.name = ""
        self._file: int | None = None

    def empty(self, folder: str, shape: Sequence[int]) -> Tensor | None:
        """A float32 tensor [shape] whose numbers the other end can map, until the next one is made.

        None where the folder is not on this machine, or has no room.
        """
        size = 4 * math.prod(shape)
        if not folder or not size:
            return None
        try:
            if self._file is None:
                self._file, path = tempfile.mkstemp(dir=folder)
                self.name = Path(path).name
                weakref.finalize(self, os.close, self._file)
            # Room that is not there must be refused now: writing would end the process.
            os.posix_fallocate(self._file, 0, size)
            return _mapped(self._file, shape)
        except OSError:
            return None


class SumsFolder:
    """The engine's end: a folder of its own, in memory where the system has such files."""

    def __init__(self) -> None:
        where = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        folder = tempfile.TemporaryDirectory(prefix="keel-", dir=where, ignore_cleanup_errors=True)
        self.path = folder.name
        self.close = weakref.finalize(self, folder.cleanup)
        self._files: dict[str, int] = {}

    def sums(self, name: str, shape: Sequence[int]) -> Tensor:
        """The numbers [shape] of a worker's file; they change with the worker's next sums."""
        if name not in self._files:
            path = Path(self.path, name)
            self._files[name] = os.open(path, os.O_RDWR)
            weakref.finalize(self, os.close, self._files[name])
            path.unlink()
        return _mapped(self._files[name], shape)


def packed_sums(
    numbers: dict[str, Tensor],
    names: Sequence[str],
    sums_LND: Tensor,
    norms_LN: Tensor,
    file: str,
) -> dict[str, Any]:
    """A message: small tensors by name, and the sums and norms of so many names.

    `file` is that of the sums; empty where the message itself is to hold them.
    """
    inline = {} if file else {"sums": sums_LND}
    return {
        "numbers": save({**numbers, **inline, "norms": norms_LN}),
        "summed": list(names),
        "shape": list(sums_LND.shape),
        "file": file,
    }


def unpacked_sums(message: Mapping[str, Any], folder: SumsFolder) -> dict[str, Tensor]:
    """The small tensors of a message, and `NAME/sums` [layer, hidden] and `NAME/norms` [layer].

    What came through memory is good until the worker's next message.
    """
    numbers = dict(load(message["numbers"]))
    norms_LN = numbers.pop("norms")
    file, shape = message["file"], message["shape"]
    sums_LND = folder.sums(file, shape) if file else numbers.pop("sums")
    for name, sums_LD, norms_L in zip(
        message["summed"], sums_LND.unbind(1), norms_LN.unbind(1), strict=True
    ):
        numbers[f"{name}/sums"], numbers[f"{name}/norms"] = sums_LD, norms_L
    return numbers


def _mapped(file: int, shape: Sequence[int]) -> Tensor:
    memory = mmap.mmap(file, 4 * math.prod(shape))
    return torch.frombuffer(memory, dtype=torch.float32).view(*shape)
