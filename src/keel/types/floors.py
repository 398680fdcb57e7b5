"""Floors: the lowest projection allowed, and the bands they form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from keel.errors import NotFiniteError, UsageError
from keel.types.space import ModelIdentity

TokenMask = Literal["all", "prompt", "generated"]


@dataclass(frozen=True)
class Floor:
    """Lowest projection allowed on a direction at one layer (Lu et al. 2026, eq. 1)."""

    layer: int
    direction: Float[Tensor, " hidden"]
    """Unit length, assistant-ward."""
    value: float
    """Raw units of the residual stream."""
    tokens: TokenMask = "all"

    def __post_init__(self) -> None:
        check_direction(self.direction, self.layer)
        if math.isnan(self.value):
            raise NotFiniteError(f"floor at layer {self.layer} is NaN; calibrate again")


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


def check_direction(direction: Tensor, layer: int) -> None:
    """Refuse a direction that is not a finite unit vector.

    Raises NotFiniteError or UsageError, naming the layer.
    """
    if not bool(torch.isfinite(direction).all()):
        raise NotFiniteError(f"direction for layer {layer} holds NaN or Inf")
    norm = float(direction.float().norm())
    if abs(norm - 1) > 1e-3:
        raise UsageError(
            f"direction for layer {layer} has norm {norm:.3g}, expected 1; pass unit(direction)"
        )
