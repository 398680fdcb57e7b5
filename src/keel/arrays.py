"""Arrays of numbers: torch's tensors where something is computed, numpy's where it is only shown.

To import torch takes longer than to draw a whole report. Modules that name tensors without always
computing with them take `torch` and `Tensor` from here: torch is imported at its first use. Knows
nothing of what the numbers stand for.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np
from numpy.typing import NDArray

Framework = Literal["pt", "np"]
"""Whose arrays a file is read as, in safetensors' words: torch's or numpy's."""

if TYPE_CHECKING:
    import torch as torch
    from torch import Tensor as Tensor

    Array = Tensor
    """Of either library; only what both can do is done with it."""
else:

    class _Torch:
        """Stands for torch until a name of it is needed."""

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("torch"), name)

    torch = sys.modules.get("torch") or _Torch()
    Tensor = sys.modules["torch"].Tensor if "torch" in sys.modules else np.ndarray
    Array = Union[Tensor, np.ndarray]  # noqa: UP007 - | makes no type that shapes can be put on


def is_array(value: Any) -> bool:
    """Whether a value is an array of either library."""
    loaded = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (
        loaded is not None and isinstance(value, loaded.Tensor)
    )


def as_numpy(values: Array) -> NDArray[np.float32]:
    """The numbers in numpy's float32, whichever library holds them, on whichever device."""
    if isinstance(values, np.ndarray):
        return np.asarray(values, np.float32)
    return values.detach().float().cpu().numpy()
