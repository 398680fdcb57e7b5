"""What a step asks of the device, and a step replayed as a CUDA graph would: both on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
_READS = {aten._local_scalar_dense.default, aten.equal.default}
_SIZED_BY_NUMBERS = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default}
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
_TO_HOST = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")


class DeviceAskedError(AssertionError):
    """Something wanted to know a number that lies on the device."""


class NothingAsked:
    """A context in which tensors stand for those on a device, of which no number may be read.

    Free to read are copies: a transfer to the host that was begun earlier.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        self.is_on = is_on
        """May be switched while the context lasts."""
        self._modes = (_Reads(self), _Operations(self))

    def __enter__(self) -> NothingAsked:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*raised)


class _Reads(TorchFunctionMode):
    """Refuses to read what is not a copy."""

    def __init__(self, guard: NothingAsked) -> None:
        super().__init__()
        self.guard = guard
        self.copies: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        name = getattr(function, "__name__", "")
        if (
            self.guard.is_on
            and name in _TO_HOST
            and not any(args[0] is copy for copy in self.copies)
        ):
            raise DeviceAskedError(name)
        with torch._C.DisableTorchFunction():
            result = function(*args, **(kwargs or {}))
        if name == "to" and (kwargs or {}).get("copy"):
            self.copies.append(result)
        return result


class _Operations(TorchDispatchMode):
    """Refuses operations that a device cannot do without the host's waiting for it."""

    def __init__(self, guard: NothingAsked) -> None:
        super().__init__()
        self.guard = guard

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None):
        if self.guard.is_on:
            check_unasked(operation, args)
        return operation(*args, **(kwargs or {}))


def check_unasked(operation: Any, args: Any) -> None:
    """Raise DeviceAskedError for an operation that reads numbers, or whose shape hangs on them."""
    if operation in _READS | _SIZED_BY_NUMBERS:
        raise DeviceAskedError(str(operation))
    indices = args[1] if operation in _INDEXED else ()
    if any(index is not None and index.dtype == torch.bool for index in indices):
        raise DeviceAskedError(f"{operation} by a mask")


def replayed(step: Callable[[], None]) -> Callable[[], None]:
    """A step captured as a CUDA graph would be: its operations, on the same memory, without its
    Python. It runs once as it is captured, which stands for the first replay."""
    operations = _Recorded()
    with operations:
        step()
    runs = 0

    def replay() -> None:
        nonlocal runs
        runs += 1
        if runs > 1:
            operations.run()

    return replay


class _Recorded(TorchDispatchMode):
    """The operations that ran, and a way to run them again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None):
        check_unasked(operation, args)
        result = operation(*args, **(kwargs or {}))
        self.calls.append((operation, args, kwargs or {}, result))
        return result

    def run(self) -> None:
        now: dict[int, Tensor] = {}

        def current(tensor: Tensor) -> Tensor:
            return now.get(id(tensor), tensor)

        for operation, args, kwargs, before in self.calls:
            given, named = tree_map_only(Tensor, current, (args, kwargs))
            result = operation(*given, **named)
            pairs = zip(_flat(before), _flat(result), strict=True)
            now.update({id(old): new for old, new in pairs})


def _flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [part for part in result if isinstance(part, Tensor)] if result is not None else []
