"""Interventions on the residual stream, the floor among them, and the bands that floors form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from keel.arrays import Array, as_numpy
from keel.errors import NotFiniteError, UsageError
from keel.types.space import ModelIdentity

TokenMask = Literal["all", "prompt", "generated", "not_first"]
"""Which tokens an intervention moves. The first of a conversation is an attention sink in many
models: a hundred times as long as any other, and the same whatever follows."""


class ShiftNumbers(NamedTuple):
    """The four numbers of an intervention's shift: clamp(slope·p + offset, low − p, high − p).

    All in raw units of the residual stream but the slope, which has none. By default no shift.
    """

    slope: float = 0.0
    offset: float = 0.0
    low: float = -math.inf
    high: float = math.inf


class Intervention(ABC):
    """A move of activations along one unit direction v at one layer: h ← h + shift(p)·v.

    The shift depends on the activation's projection p = ⟨h, v⟩ alone, by the same arithmetic for
    every kind: `keel.geometry.shift(p, *numbers)`.
    """

    layer: int
    direction: Float[Array, " hidden"]
    """Unit length."""
    tokens: TokenMask
    rank: ClassVar[int]
    """Kinds of lower rank act first at a layer: additions, ablations, ceilings, floors.

    Bounds come last, so that no addition can push a projection back out.
    """

    def __post_init__(self) -> None:
        check_direction(self.direction, self.layer)
        if any(map(math.isnan, self.numbers)):
            kind = type(self).__name__.lower()
            raise NotFiniteError(
                f"{kind} at layer {self.layer} is NaN, expected a number; calibrate again"
            )

    @property
    @abstractmethod
    def numbers(self) -> ShiftNumbers:
        """The numbers of its shift."""

    @property
    def is_bound(self) -> bool:
        """Whether it moves only tokens beyond a bound, so that its firing rate is informative."""
        return self.numbers.low > -math.inf or self.numbers.high < math.inf


@dataclass(frozen=True)
class Floor(Intervention):
    """Lowest projection allowed on a direction at one layer (Lu et al. 2026, eq. 1)."""

    rank: ClassVar[int] = 3
    layer: int
    direction: Float[Array, " hidden"]
    """Unit length, assistant-ward."""
    value: float
    """Raw units of the residual stream."""
    tokens: TokenMask = "all"

    @property
    def numbers(self) -> ShiftNumbers:
        """shift(p) = max(value − p, 0)."""
        return ShiftNumbers(low=float(self.value))


@dataclass(frozen=True)
class Floors:
    """A band: floors at several adjacent layers, applied at once, with where they came from."""

    floors: tuple[Floor, ...]
    name: str = ""
    """The setting's name: Python slice of layers, assistant-ward percentile: `layers_18:23-p75`."""
    identity: ModelIdentity | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.floors:
            raise UsageError(f"band {self.name!r} has no floor; give at least one")

    def __iter__(self) -> Iterator[Floor]:
        return iter(self.floors)

    def __len__(self) -> int:
        return len(self.floors)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have a floor, in ascending order."""
        return tuple(sorted({floor.layer for floor in self.floors}))


def check_direction(direction: Array, layer: int) -> None:
    """Refuse a direction that is not a finite unit vector.

    Raises NotFiniteError or UsageError, naming the layer.
    """
    numbers = as_numpy(direction)
    if not np.isfinite(numbers).all():
        raise NotFiniteError(f"direction for layer {layer} holds NaN or Inf")
    norm = float(np.linalg.norm(numbers))
    if abs(norm - 1) > 1e-3:
        raise UsageError(
            f"direction for layer {layer} has norm {norm:.3g}, expected 1; pass unit(direction)"
        )
