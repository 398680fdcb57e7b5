"""Directions that are not the axis: what a claim about the axis is held against.

One draw serves all layers. The axis hardly turns from a layer to the next, so a band pushes the
same way again and again; a control drawn anew at each layer would push every way at once and be
weaker than the cap for that reason alone. Hence one Gaussian vector, one permutation, or one
mixture of roles: the same coefficients at every layer are the same mixture of characters as each
layer sees it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from keel.errors import TooFewSamplesError
from keel.geometry import unit
from keel.seeds import seed_of
from keel.types import AssistantAxis, PersonaVector

_FEWEST_ROLES = 3
"""Two roles span one dimension when centred, and nothing in it is free to leave the axis."""
_RELATIVE_ZERO = 1e-6
"""Shares of a length that float32 role vectors cannot tell from nothing."""


def random_directions(
    axis: AssistantAxis, layers: Sequence[int], generator: torch.Generator
) -> Float[Tensor, "layer hidden"]:
    """A Gaussian unit vector, the same at each of the layers asked for."""
    hidden = axis.vector.shape[1]
    return unit(torch.randn(hidden, generator=generator)).repeat(len(layers), 1)


def shuffled_directions(
    axis: AssistantAxis, layers: Sequence[int], generator: torch.Generator
) -> Float[Tensor, "layer hidden"]:
    """The axis' coordinates in another order, the same at each of the layers asked for.

    They are as large as the axis' own, one or two of which outweigh all others in some models.
    """
    order_D = torch.randperm(axis.vector.shape[1], generator=generator)
    return axis.direction[list(layers)][:, order_D]


def in_span_directions(
    axis: AssistantAxis,
    layers: Sequence[int],
    generator: torch.Generator,
    *,
    vectors: Sequence[PersonaVector],
) -> Float[Tensor, "layer hidden"]:
    """A random mixture of centred role vectors, orthogonal to the axis at each layer asked for.

    Raises TooFewSamplesError where the roles leave no such direction.
    """
    if len(vectors) < _FEWEST_ROLES:
        raise TooFewSamplesError(
            f"{len(vectors)} role vectors, expected {_FEWEST_ROLES} or more; extract more roles"
        )
    weights_R = torch.randn(len(vectors), generator=generator, dtype=torch.float64)
    rows = []
    for layer in layers:
        vectors_RD = torch.stack([one.vector_LD[layer] for one in vectors]).double()
        rows.append(_mixture(vectors_RD, weights_R, axis.direction[layer].double()))
    return unit(torch.stack(rows))


def draw_source(seed: int, kind: str, draw: int) -> torch.Generator:
    """Chance for one draw of one kind of control: it depends on nothing else."""
    return torch.Generator().manual_seed(seed_of(seed, kind, draw, separator="/", bits=63))


def _mixture(vectors_RD: Tensor, weights_R: Tensor, axis_D: Tensor) -> Tensor:
    """The mixture, less as much of the axis' shadow in the roles' span as makes it orthogonal.

    Taking the axis itself away would lead out of the span: the default is not among the roles.
    """
    centred_RD = vectors_RD - vectors_RD.mean(0)
    mixture_D = weights_R @ centred_RD
    shadow_D = _shadow(axis_D, centred_RD)
    overlap = float(shadow_D @ axis_D)
    found_D = mixture_D
    if overlap > _RELATIVE_ZERO**2:
        found_D = mixture_D - (mixture_D @ axis_D) / overlap * shadow_D
    if float(found_D.norm()) <= _RELATIVE_ZERO * float(mixture_D.norm()):
        raise TooFewSamplesError(
            "the role vectors differ along the axis alone, so that no mixture of them is "
            "orthogonal to it; extract more roles"
        )
    return found_D


def _shadow(axis_D: Tensor, centred_RD: Tensor) -> Tensor:
    """The axis as far as it lies in the span of the rows."""
    _, sizes_K, rows_KD = torch.linalg.svd(centred_RD, full_matrices=False)
    spanning_KD: Tensor = rows_KD[sizes_K > _RELATIVE_ZERO * sizes_K[0]]
    return spanning_KD.T @ (spanning_KD @ axis_D)
