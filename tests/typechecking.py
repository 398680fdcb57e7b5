"""The checker of types and shapes that tests run under: an int will do where a float is asked."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from beartype import BeartypeConf, beartype

_by_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))
_made: dict[Any, Callable[..., Any]] = {}


def checked(signature: FunctionType) -> Callable[..., Any]:
    """Checks what a function is called with and what it gives; makes each checker once.

    `signature` is an empty function with the checked one's annotations, as jaxtyping makes it. A
    function that is defined within another comes here again in each call of the outer one.
    """
    annotations = repr(signature.__annotations__)
    if "<locals>" in annotations:  # a class that each call of the outer function makes anew
        return _by_beartype(signature)
    key = (signature.__module__, signature.__qualname__, signature.__code__, annotations)
    if key not in _made:
        _made[key] = _by_beartype(signature)
    return _made[key]
