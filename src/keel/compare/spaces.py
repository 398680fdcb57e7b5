"""Do two spaces order the same names alike? Asked of loadings, which know no width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from keel.compare.resampling import correlate, interval_of
from keel.settings import CompareSettings
from keel.statistics import bootstrap_indices
from keel.types import PersonaSpace, SpaceComparison


def in_common(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Names of both, in the order of the first."""
    theirs = set(second)
    return [name for name in first if name in theirs]


def places_of(names: Sequence[str], among: Sequence[str]) -> list[int]:
    """Where each name stands among others."""
    place = {name: n for n, name in enumerate(among)}
    return [place[name] for name in names]


def compare_spaces(
    first: PersonaSpace,
    second: PersonaSpace,
    layers: tuple[int, int],
    settings: CompareSettings,
) -> SpaceComparison:
    """Correlations of loadings over the names in common, one layer of each space.

    Past PC1 two spaces may hold the same direction with the other sign, or at another place: so
    the amount is told for the same number, and every pair of numbers is there to be looked up.
    """
    names = in_common(first.roles, second.roles)
    mine_NK = _loadings(first, names, layers[0], settings.components)
    theirs_NK = _loadings(second, names, layers[1], settings.components)
    drawn_SN = bootstrap_indices(len(names), settings.bootstrap, settings.seed)
    pairs = zip(mine_NK.T, theirs_NK.T, strict=False)  # as many as the smaller space has
    found = [correlate(mine_N, theirs_N, drawn_SN) for mine_N, theirs_N in pairs]
    components = tuple(interval_of(r_S if k == 0 else r_S.abs()) for k, r_S in enumerate(found))
    return SpaceComparison(tuple(names), layers, components, _all_pairs(mine_NK, theirs_NK))


def _loadings(space: PersonaSpace, names: Sequence[str], layer: int, most: int) -> Tensor:
    return space.loadings_LRK[layer, places_of(names, space.roles), :most]


def _all_pairs(mine_NK: Tensor, theirs_NK: Tensor) -> Tensor:
    mine_NK, theirs_NK = (
        torch.nn.functional.normalize(x_NK.double() - x_NK.double().mean(0), dim=0)
        for x_NK in (mine_NK, theirs_NK)
    )
    return (mine_NK.T @ theirs_NK).float()
