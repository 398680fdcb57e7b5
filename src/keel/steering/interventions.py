"""The interventions that are not floors, and the order in which interventions act."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from keel.errors import NotFiniteError, UsageError
from keel.types import AssistantAxis, Intervention, ShiftNumbers, TokenMask


@dataclass(frozen=True)
class Ceiling(Intervention):
    """Highest projection allowed on a direction at one layer."""

    rank: ClassVar[int] = 2
    layer: int
    direction: Float[Tensor, " hidden"]
    value: float
    """Raw units of the residual stream."""
    tokens: TokenMask = "all"

    @property
    def numbers(self) -> ShiftNumbers:
        """shift(p) = min(value − p, 0)."""
        return ShiftNumbers(high=float(self.value))


@dataclass(frozen=True)
class Addition(Intervention):
    """A fixed step along a direction at one layer."""

    rank: ClassVar[int] = 0
    layer: int
    direction: Float[Tensor, " hidden"]
    amount: float
    """Raw length added; negative steps away from where the direction points."""
    tokens: TokenMask = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if math.isinf(self.amount):
            raise NotFiniteError(f"addition at layer {self.layer} is infinite")

    @property
    def numbers(self) -> ShiftNumbers:
        """shift(p) = amount."""
        return ShiftNumbers(offset=float(self.amount))

    @classmethod
    def along(
        cls,
        axis: AssistantAxis,
        strength: float,
        *,
        layer: int | None = None,
        tokens: TokenMask = "all",
    ) -> Addition:
        """A step along an axis, its strength in units of the layer's mean residual norm.

        Norms differ a hundredfold between layers and families; strength does not. Positive is
        towards the Assistant. Raises UsageError where the axis does not know the norm.
        """
        layer = axis.layer if layer is None else layer
        norm = float(axis.residual_norm[layer])
        if not math.isfinite(norm):
            raise UsageError(
                f"this axis does not know the residual norm at layer {layer}; "
                "give Addition(amount=...) in raw units"
            )
        return cls(layer, axis.direction[layer], strength * norm, tokens)


@dataclass(frozen=True)
class Ablation(Intervention):
    """The component along a direction is replaced by a given value: 0 removes it."""

    rank: ClassVar[int] = 1
    layer: int
    direction: Float[Tensor, " hidden"]
    to: float = 0.0
    """Raw projection afterwards; the default's mean projection gives axis replacement."""
    tokens: TokenMask = "all"

    @property
    def numbers(self) -> ShiftNumbers:
        """shift(p) = to − p."""
        return ShiftNumbers(slope=-1.0, offset=float(self.to))


def in_order(interventions: Iterable[Intervention]) -> list[Intervention]:
    """Sort interventions as they act: by layer, then additions, ablations, ceilings, floors.

    Within a kind they act as given.

    The last floor holds exactly. An earlier one can be moved by a later one whose direction is not
    orthogonal.
    """
    return sorted(interventions, key=lambda each: (each.layer, each.rank))
