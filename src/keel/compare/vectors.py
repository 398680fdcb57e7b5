"""How near vectors and axes of two models of one width lie, and where the default went."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keel.compare.resampling import interval_of
from keel.geometry import cosine
from keel.settings import CompareSettings
from keel.statistics import bootstrap_indices
from keel.types import DefaultShift, Interval, PersonaMap, Shift, TraitMap, VectorComparison

Stacked = Float[Tensor, "name layer hidden"]


def compare_vectors(
    names: Sequence[str], first: Stacked, second: Stacked, layer: int, settings: CompareSettings
) -> VectorComparison:
    """Cosine of each name's two vectors; the vectors are taken as they are."""
    cosines_NL = cosine(first, second)
    drawn_SN = bootstrap_indices(len(names), settings.bootstrap, settings.seed)
    means_SL = cosines_NL.double()[drawn_SN].mean(1)
    return VectorComparison(
        names=tuple(names),
        cosines=tuple(cosines_NL[:, layer].tolist()),
        layer=layer,
        by_layer=tuple(interval_of(means_S) for means_S in means_SL.T),
    )


def compare_axes(
    first: tuple[Tensor, Stacked], second: tuple[Tensor, Stacked], settings: CompareSettings
) -> tuple[Interval, ...]:
    """Cosine of the two axes at every layer. Each of the two is (default mean, role vectors).

    Both axes are made of the roles in common, the same ones drawn for both.
    """
    drawn_SN = bootstrap_indices(len(first[1]), settings.bootstrap, settings.seed)
    shares_SN = _shares(drawn_SN)
    return tuple(
        interval_of(
            cosine(_axes(first, shares_SN, layer), _axes(second, shares_SN, layer)).double()
        )
        for layer in range(first[1].shape[1])
    )


def default_shift(
    first: PersonaMap,
    traits: TraitMap | None,
    to_LD: Float[Tensor, "layer hidden"],
) -> DefaultShift:
    """How far the default lies from where the first model's was, along what the first one knows."""
    layer = first.axis.layer
    moved_D = to_LD[layer].double() - first.default_LD[layer].double()
    roles_ND = torch.stack([vector.vector_LD[layer] for vector in first.vectors]).double()
    along = float(moved_D @ first.axis.direction[layer].double())
    return DefaultShift(
        layer=layer,
        length=float(moved_D.norm()),
        gaps=along / float(first.axis.gap[layer]),
        roles=_ranked(
            [vector.role for vector in first.vectors], roles_ND - roles_ND.mean(0), moved_D
        ),
        traits=() if traits is None else _along_traits(traits, layer, moved_D),
    )


def _along_traits(traits: TraitMap, layer: int, moved_D: Tensor) -> tuple[Shift, ...]:
    stacked_ND = torch.stack([vector.vector_LD[layer] for vector in traits.vectors])
    return _ranked(traits.traits, stacked_ND.double(), moved_D)


def _shares(drawn_SN: Int[Tensor, "resample name"]) -> Float[Tensor, "resample name"]:
    """What each name weighs in the mean of a draw."""
    names = drawn_SN.shape[1]
    counts_SN = torch.zeros(drawn_SN.shape, dtype=torch.float64)
    counts_SN.scatter_add_(1, drawn_SN, torch.ones(drawn_SN.shape, dtype=torch.float64))
    return counts_SN / names


def _axes(
    model: tuple[Tensor, Stacked], shares_SN: Tensor, layer: int
) -> Float[Tensor, "resample hidden"]:
    default_LD, roles_NLD = model
    return default_LD[layer].double() - shares_SN @ roles_NLD[:, layer].double()


def _ranked(names: Sequence[str], directions_ND: Tensor, moved_D: Tensor) -> tuple[Shift, ...]:
    along_N = directions_ND @ moved_D
    shares_N = along_N / directions_ND.square().sum(1).clamp_min(1e-30)
    lengths_N = directions_ND.norm(dim=1) * moved_D.norm()
    cosines_N = along_N / lengths_N.clamp_min(1e-30)
    found = zip(names, shares_N.tolist(), cosines_N.tolist(), strict=True)
    return tuple(sorted((Shift(*one) for one in found), key=lambda shift: -shift.share))
