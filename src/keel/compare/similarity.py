"""How alike two runs order the same names, and how near their vectors and axes lie.

Loadings need no common width; cosines of vectors do. Correlations, and means over names, are about
other names, with these answers; cosines of axes about other questions and answers as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from keel.cosines import FoldedVector, noise_free_cosine
from keel.errors import TooFewSamplesError
from keel.geometry import cosine
from keel.statistics import LEVEL, Clusters, clustered_correlation, mean_interval
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
_SPLITS = 20
"""Random halves of the roles behind the null of the axes' cosine."""


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
    r_K = [correlation(first_N, second_N) for first_N, second_N in pairs]
    first_NK, second_NK = (
        torch.nn.functional.normalize(x_NK.double() - x_NK.double().mean(0), dim=0)
        for x_NK in (first_NK, second_NK)
    )
    return SpaceComparison(
        names=tuple(names),
        layers=layers,
        components=tuple(r if k == 0 else _amount(r) for k, r in enumerate(r_K)),
        correlations_KK=(first_NK.T @ second_NK).float(),
        null=unrelated_correlation(len(names)),
        partner_null=unrelated_correlation(len(names), of=second_NK.shape[1]),
    )


def unrelated_correlation(names: int, *, of: int = 1) -> float:
    """|r| that so many unrelated names reach in one of twenty; of several r the largest does.

    Student's t of r at n − 2 degrees of freedom; of the largest of several with Šidák's correction
    (1967, J. American Statistical Association 62:626).
    """
    alone = 1 - LEVEL ** (1 / of)
    t = float(stdtrit(names - 2, 1 - alone / 2))
    return float(t / (names - 2 + t**2) ** 0.5)


def correlation(first_N: Tensor, second_N: Tensor) -> Interval:
    """Pearson's r of two numbers per name, with its interval; NaN where one does not vary."""
    values = first_N.double().numpy(), second_N.double().numpy()
    try:
        return clustered_correlation(*values, Clusters.of([{}] * len(values[0])))
    except TooFewSamplesError:
        return Interval(math.nan, math.nan, math.nan)


def _amount(r: Interval) -> Interval:
    """|r|: down to 0 where the interval of r holds it."""
    ends = sorted(abs(end) for end in (r.low, r.high))
    return Interval(abs(r.value), 0.0 if r.low <= 0 <= r.high else ends[0], ends[1])


# --- vectors and axes: two models of one shape ---


def compare_vectors(
    names: Sequence[str], vectors: Sequence[Stacked], layer: int
) -> VectorComparison:
    """Cosine of each name's two vectors, as they are; `vectors` are those of either model."""
    first_NLD, second_NLD = vectors
    cosines_NL = cosine(first_NLD, second_NLD).double()
    alone = Clusters.of([{}] * len(names))
    return VectorComparison(
        names=tuple(names),
        cosines=tuple(cosines_NL[:, layer].tolist()),
        layer=layer,
        by_layer=tuple(
            mean_interval(layer_N.numpy(), alone, bounds=(-1.0, 1.0)) for layer_N in cosines_NL.T
        ),
    )


def compare_axes(
    first: PersonaMap, second: PersonaMap, roles: tuple[Stacked, Stacked]
) -> tuple[Interval, ...]:
    """Cosine of the two axes at every layer, noise taken out of both; see `noise_free_cosine`.

    Both axes are made of the roles in common, whose vectors in either run `roles` holds. A run
    that keeps no folds of its axis has it taken as it is.
    """
    return tuple(
        noise_free_cosine(
            _folded_axis(first, roles[0], layer), _folded_axis(second, roles[1], layer)
        )
        for layer in range(roles[0].shape[1])
    )


def _folded_axis(of_run: PersonaMap, roles_NLD: Stacked, layer: int) -> FoldedVector:
    """The axis of the roles in common, by folds of the questions."""
    every_ND = torch.stack([vector.vector_LD[layer] for vector in of_run.vectors]).double()
    roles_ND, kept = roles_NLD[:, layer].double(), of_run.axis_folds
    spread = float(roles_ND.var(0).sum())
    if kept is None:
        axis_D = of_run.default_LD[layer].double() - roles_ND.mean(0)
        return FoldedVector(axis_D.expand(2, -1), torch.ones(2), roles_ND, spread)
    # The folds hold the axis of all roles of the run, and the noise of all.
    moved_D = every_ND.mean(0) - roles_ND.mean(0)
    noise = float(every_ND.var(0).sum()) - float(kept.role_spread_L[layer])
    folds_FD = kept.contrast_FLD[:, layer].double() + moved_D
    return FoldedVector(folds_FD, kept.weight_F, roles_ND, max(0.0, spread - noise))


def unrelated_axes(
    defaults: tuple[Tensor, Tensor], roles: tuple[Stacked, Stacked], seed: int
) -> tuple[float, ...]:
    """Cosine at every layer of axes that have no role in common, the mean over random halves.

    What the default alone makes of any two axes: they share it whatever the roles are.
    """
    draw = torch.Generator().manual_seed(seed)
    cosines = []
    for _ in range(_SPLITS):
        halves = torch.randperm(len(roles[0]), generator=draw).tensor_split(2)
        for mine, theirs in (halves, halves[::-1]):
            axes = (defaults[0] - roles[0][mine].mean(0), defaults[1] - roles[1][theirs].mean(0))
            cosines.append(cosine(*axes))
    return tuple(torch.stack(cosines).mean(0).tolist())


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
