"""What can be done to a residual stream, as frozen values. Knows nothing of models.

Every intervention moves an activation along one unit direction v by an amount that depends on
its projection p = ⟨h, v⟩ alone:  h ← h + shift(p)·v.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from keel.errors import NotFiniteError, UsageError
from keel.types import AssistantAxis, Floor, TokenMask, check_direction


@dataclass(frozen=True)
class Ceiling:
    """Highest projection allowed on a direction at one layer."""

    layer: int
    direction: Float[Tensor, " hidden"]
    value: float
    """Raw units of the residual stream."""
    tokens: TokenMask = "all"

    def __post_init__(self) -> None:
        check_direction(self.direction, self.layer)
        _check_number("ceiling", self.value, self.layer)


@dataclass(frozen=True)
class Addition:
    """A fixed step along a direction at one layer."""

    layer: int
    direction: Float[Tensor, " hidden"]
    amount: float
    """Raw length added; negative steps away from where the direction points."""
    tokens: TokenMask = "all"

    def __post_init__(self) -> None:
        check_direction(self.direction, self.layer)
        _check_number("addition", self.amount, self.layer)
        if math.isinf(self.amount):
            raise NotFiniteError(f"addition at layer {self.layer} is infinite")

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
class Ablation:
    """The component along a direction is replaced by a given value: 0 removes it."""

    layer: int
    direction: Float[Tensor, " hidden"]
    to: float = 0.0
    """Raw projection afterwards; the default's mean projection gives axis replacement."""
    tokens: TokenMask = "all"

    def __post_init__(self) -> None:
        check_direction(self.direction, self.layer)
        _check_number("ablation", self.to, self.layer)


Intervention = Floor | Ceiling | Addition | Ablation

_ORDER: dict[type, int] = {Addition: 0, Ablation: 1, Ceiling: 2, Floor: 3}


def in_order(interventions: Iterable[Intervention]) -> list[Intervention]:
    """Interventions in the order in which they act: by layer, then additions, ablations,
    ceilings, floors; within a kind as given.

    Bounds come last, so that no addition can push a projection back out, and the last floor
    holds exactly. An earlier one can be moved by a later one whose direction is not orthogonal.
    """
    return sorted(interventions, key=lambda one: (one.layer, _ORDER[type(one)]))


def shift(intervention: Intervention, projection: Float[Tensor, "*batch"]) -> Tensor:
    """How far each activation moves along the direction, given its float32 projection.

    Floor: max(τ − p, 0), Lu et al. 2026, eq. 1 (arXiv:2601.10387).
    """
    match intervention:
        case Floor(value=value):
            return (value - projection).clamp_min(0)
        case Ceiling(value=value):
            return (value - projection).clamp_max(0)
        case Addition(amount=amount):
            return torch.full_like(projection, amount)
        case Ablation(to=to):
            return to - projection


def is_bound(intervention: Intervention) -> bool:
    """Whether the intervention moves only some tokens, so that counting them tells something."""
    return isinstance(intervention, Floor | Ceiling)


def _check_number(name: str, value: float, layer: int) -> None:
    if math.isnan(value):
        raise NotFiniteError(f"{name} at layer {layer} is NaN")
