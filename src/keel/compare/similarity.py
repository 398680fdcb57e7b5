"""How alike two runs order the same names, and how near their vectors and axes lie.

Loadings need no common width; cosines of vectors do. `draws_SN` holds indices of the names drawn in
each resample, the first row each name once: all numbers of one comparison use the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keel.geometry import cosine
from keel.statistics import draw_counts, percentile_interval
from keel.types import (
    DefaultShift,
    Interval,
    PersonaMap,
    PersonaSpace,
    Shift,
    SpaceComparison,
    TraitMap,
    VectorComparison,
)

Stacked = Float[Tensor, "name layer hidden"]
Draws = Int[Tensor, "resample name"]


def in_common(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Names of both, in the order of the first."""
    others = set(second)
    return [name for name in first if name in others]


def indices_of(names: Sequence[str], among: Sequence[str]) -> list[int]:
    """Index of each name in `among`."""
    index = {name: n for n, name in enumerate(among)}
    return [index[name] for name in names]


# --- order of names: any two models ---


def compare_spaces(
    first: PersonaSpace,
    second: PersonaSpace,
    names: Sequence[str],
    layers: tuple[int, int],
    draws_SN: Draws,
    *,
    most: int,
) -> SpaceComparison:
    """Correlations of loadings over the names in common, at one layer of each space.

    At most `most` components. Past PC1 two spaces may hold the same direction with the other sign,
    or under another number: so the amount is given for the same number, and the correlations of
    all pairs of components beside it.
    """
    first_NK, second_NK = (
        space.loadings_LRK[layer, indices_of(names, space.roles), :most]
        for space, layer in zip((first, second), layers, strict=True)
    )
    pairs = zip(first_NK.T, second_NK.T, strict=False)  # as many as the smaller space has
    r_KS = [_correlations(first_N, second_N, draws_SN) for first_N, second_N in pairs]
    first_NK, second_NK = (
        torch.nn.functional.normalize(x_NK.double() - x_NK.double().mean(0), dim=0)
        for x_NK in (first_NK, second_NK)
    )
    return SpaceComparison(
        names=tuple(names),
        layers=layers,
        components=tuple(_interval(r_S if k == 0 else r_S.abs()) for k, r_S in enumerate(r_KS)),
        correlations_KK=(first_NK.T @ second_NK).float(),
    )


def correlation(first_N: Tensor, second_N: Tensor, draws_SN: Draws) -> Interval:
    """Pearson's r of two numbers per name, with the interval of resampled names."""
    return _interval(_correlations(first_N, second_N, draws_SN))


def _correlations(first_N: Tensor, second_N: Tensor, draws_SN: Draws) -> Float[Tensor, " resample"]:
    """Pearson's r of each draw; NaN where one of the two does not vary."""
    first_SN, second_SN = first_N.double()[draws_SN], second_N.double()[draws_SN]
    first_SN = first_SN - first_SN.mean(1, keepdim=True)
    second_SN = second_SN - second_SN.mean(1, keepdim=True)
    scale_S = first_SN.norm(dim=1) * second_SN.norm(dim=1)
    return (first_SN * second_SN).sum(1) / torch.where(scale_S > 0, scale_S, torch.nan)


def _interval(values_S: Float[Tensor, " resample"]) -> Interval:
    """The first value with the interval of the others; the value alone where none is finite."""
    value, resampled_S = float(values_S[0]), values_S[1:]
    if not bool(torch.isfinite(resampled_S).any()):
        return Interval(value, value, value)
    return percentile_interval(value, resampled_S.numpy())


# --- vectors and axes: two models of one shape ---


def compare_vectors(
    names: Sequence[str], vectors: Sequence[Stacked], layer: int, draws_SN: Draws
) -> VectorComparison:
    """Cosine of each name's two vectors, as they are; `vectors` are those of either model."""
    first_NLD, second_NLD = vectors
    cosines_NL = cosine(first_NLD, second_NLD)
    means_SL = cosines_NL.double()[draws_SN].mean(1)
    return VectorComparison(
        names=tuple(names),
        cosines=tuple(cosines_NL[:, layer].tolist()),
        layer=layer,
        by_layer=tuple(_interval(means_S) for means_S in means_SL.T),
    )


def compare_axes(
    first: tuple[Tensor, Stacked], second: tuple[Tensor, Stacked], draws_SN: Draws
) -> tuple[Interval, ...]:
    """Cosine of the two axes at every layer. Each of the two is (default mean, role vectors).

    Both axes are made of the roles in common, the same ones drawn for both.
    """
    weights_SN = draw_counts(draws_SN) / draws_SN.shape[1]

    def axes(model: tuple[Tensor, Stacked], layer: int) -> Float[Tensor, "resample hidden"]:
        default_LD, roles_NLD = model
        return default_LD[layer].double() - weights_SN @ roles_NLD[:, layer].double()

    return tuple(
        _interval(cosine(axes(first, layer), axes(second, layer)).double())
        for layer in range(first[1].shape[1])
    )


def default_shift(
    first: PersonaMap, traits: TraitMap | None, second_default_LD: Float[Tensor, "layer hidden"]
) -> DefaultShift:
    """The second model's default mean minus the first's, along the first's roles and traits."""
    layer = first.axis.layer
    moved_D = second_default_LD[layer].double() - first.default_LD[layer].double()
    roles_ND = torch.stack([vector.vector_LD[layer] for vector in first.vectors]).double()
    along = float(moved_D @ first.axis.direction[layer].double())
    role_names = [vector.role for vector in first.vectors]
    trait_shifts: tuple[Shift, ...] = ()
    if traits is not None:
        traits_ND = torch.stack([vector.vector_LD[layer] for vector in traits.vectors]).double()
        trait_shifts = _ranked_shifts(traits.traits, traits_ND, moved_D)
    return DefaultShift(
        layer=layer,
        length=float(moved_D.norm()),
        gaps=along / float(first.axis.gap[layer]),
        roles=_ranked_shifts(role_names, roles_ND - roles_ND.mean(0), moved_D),
        traits=trait_shifts,
    )


def _ranked_shifts(
    names: Sequence[str], directions_ND: Tensor, moved_D: Tensor
) -> tuple[Shift, ...]:
    """Share and cosine of the move along each direction, the greatest share first."""
    along_N = directions_ND @ moved_D
    shares_N = along_N / directions_ND.square().sum(1).clamp_min(1e-30)
    lengths_N = directions_ND.norm(dim=1) * moved_D.norm()
    cosines_N = along_N / lengths_N.clamp_min(1e-30)
    shifts = map(Shift, names, shares_N.tolist(), cosines_N.tolist())
    return tuple(sorted(shifts, key=lambda shift: -shift.share))
