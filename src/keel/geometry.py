"""Pure tensor maths along directions. Knows nothing of models, tokens or files."""

from __future__ import annotations

import math

from jaxtyping import Float

from keel.arrays import Tensor, torch
from keel.errors import NotFiniteError, UsageError


def unit(vector: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
    """The vector scaled to length 1, in float32.

    Raises NotFiniteError on NaN or Inf and UsageError on a zero vector, which has no direction.
    """
    vector = vector.float()
    if not bool(torch.isfinite(vector).all()):
        raise NotFiniteError("cannot take the direction of a vector that holds NaN or Inf")
    length = vector.norm(dim=-1, keepdim=True)
    if bool((length == 0).any()):
        raise UsageError("cannot take the direction of a zero vector")
    return torch.div(vector, length)


def project(
    activations: Float[Tensor, "*batch hidden"], direction: Float[Tensor, " hidden"]
) -> Float[Tensor, "*batch"]:
    """⟨h, v⟩ of each activation on a unit direction: its raw coordinate, in float32."""
    return activations.float() @ direction.float()


def shift(
    projection: Float[Tensor, "*batch"],
    slope: float | Tensor,
    offset: float | Tensor,
    low: float | Tensor,
    high: float | Tensor,
) -> Float[Tensor, "*batch"]:
    """How far activations move along a direction: clamp(slope·p + offset, low − p, high − p).

    The one arithmetic of all interventions, given float32 projections p. A floor τ has low = τ
    and slope = offset = 0: max(τ − p, 0), Lu et al. 2026, eq. 1 (arXiv:2601.10387). The numbers
    are floats, or tensors with a number per token. Compilers trace it without a break.
    """
    wanted = slope * projection + offset
    return wanted.maximum(low - projection).minimum(high - projection)


def lift(projection: Float[Tensor, "*batch"], floor: float | Tensor) -> Float[Tensor, "*batch"]:
    """How far a floor raises a projection: max(τ − p, 0)."""
    return shift(projection, 0.0, 0.0, floor, math.inf)


def raise_to_floor(
    activations: Float[Tensor, "*batch hidden"],
    direction: Float[Tensor, " hidden"],
    floor: float,
) -> Float[Tensor, "*batch hidden"]:
    """Activation capping: h + max(τ − ⟨h, v⟩, 0)·v, the projection in float32, h in its own dtype.

    Lu et al. 2026, eq. 1 (arXiv:2601.10387), written with the sign of a floor. `direction` is unit.
    """
    return _between(activations, direction, low=floor, high=math.inf)


def lower_to_ceiling(
    activations: Float[Tensor, "*batch hidden"],
    direction: Float[Tensor, " hidden"],
    ceiling: float,
) -> Float[Tensor, "*batch hidden"]:
    """The mirror of `raise_to_floor`: projections above the ceiling are lowered to it."""
    return _between(activations, direction, low=-math.inf, high=ceiling)


def _between(activations: Tensor, direction: Tensor, low: float, high: float) -> Tensor:
    moved = shift(project(activations, direction), 0.0, 0.0, low, high)
    return (activations.float() + moved[..., None] * direction.float()).to(activations.dtype)


def cosine(
    first: Float[Tensor, "*batch hidden"], second: Float[Tensor, "*batch hidden"]
) -> Float[Tensor, "*batch"]:
    """Cosine of the angle between vectors, in float32; 0 where one of them is zero."""
    return torch.nn.functional.cosine_similarity(first.float(), second.float(), dim=-1)
