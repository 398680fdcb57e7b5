"""Two runs side by side, in all that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from keel.compare.resampling import correlate, interval_of
from keel.compare.spaces import compare_spaces, in_common, places_of
from keel.compare.values import RunMaps
from keel.compare.vectors import compare_axes, compare_vectors, default_shift
from keel.errors import TooFewSamplesError, UsageError
from keel.settings import CompareSettings
from keel.statistics import bootstrap_indices
from keel.types import (
    DefaultShift,
    Interval,
    PersonaMap,
    RunComparison,
    SpaceComparison,
    TraitMap,
    VectorComparison,
)

_FEWEST = 4
"""Names in common: with three, any two orders correlate strongly."""
_FEW = 20


def compare_maps(
    first: RunMaps, second: RunMaps, settings: CompareSettings = CompareSettings()
) -> RunComparison:
    """How alike two runs' spaces are, and what changed from the first to the second.

    Models of one width are compared layer by layer, and read at the first one's layer; others by
    their loadings alone, each at its own. Raises UsageError where the two share no kind of map,
    TooFewSamplesError with fewer than four roles or traits in common.
    """
    if not _share(first.roles, second.roles) and not _share(first.traits, second.traits):
        raise UsageError(
            f"{first.name} holds {_held(first)} and {second.name} {_held(second)}; to compare "
            "them, extract the same of both, with --what"
        )
    alike = first.has_shape_of(second)
    layers = (first.layer, first.layer if alike else second.layer)
    return RunComparison(
        first=first.name,
        second=second.name,
        roles=_roles(first, second, layers, settings),
        traits=_traits(first, second, layers, settings),
        standings=_standings(first.roles, second.roles, layers, settings),
        leanings=_leanings(first.traits, second.traits, layers, settings),
        axes=_axes(first.roles, second.roles, settings) if alike else None,
        role_vectors=_role_vectors(first.roles, second.roles, settings) if alike else None,
        trait_vectors=_trait_vectors(first, second, settings) if alike else None,
        shift=_shift(first, second) if alike else None,
        warnings=tuple(_warnings(first, second, alike)),
    )


def _share(first: object | None, second: object | None) -> bool:
    return first is not None and second is not None


def _held(one: RunMaps) -> str:
    return " and ".join(
        [*(["roles"] if one.roles is not None else []), *(["traits"] if one.traits else [])]
    )


def _roles(
    first: RunMaps, second: RunMaps, layers: tuple[int, int], settings: CompareSettings
) -> SpaceComparison | None:
    if first.roles is None or second.roles is None:
        return None
    mine, theirs = first.roles.space, second.roles.space
    _check_common(mine.roles, theirs.roles, f"roles of {first.name} and {second.name}")
    return compare_spaces(mine, theirs, layers, settings)


def _traits(
    first: RunMaps, second: RunMaps, layers: tuple[int, int], settings: CompareSettings
) -> SpaceComparison | None:
    if first.traits is None or second.traits is None:
        return None
    mine, theirs = first.traits.space, second.traits.space
    _check_common(mine.roles, theirs.roles, f"traits of {first.name} and {second.name}")
    return compare_spaces(mine, theirs, layers, settings)


def _check_common(first: Sequence[str], second: Sequence[str], what: str) -> None:
    common = in_common(first, second)
    if len(common) < _FEWEST:
        raise TooFewSamplesError(
            f"{what} have {len(common)} in common ({', '.join(common) or 'none'}), expected "
            f"{_FEWEST} or more; extract the same of both: the same library, scale and "
            "--choice-seed"
        )


def _standings(
    first: PersonaMap | None,
    second: PersonaMap | None,
    layers: tuple[int, int],
    settings: CompareSettings,
) -> Interval | None:
    if first is None or second is None:
        return None
    names = in_common(first.space.roles, second.space.roles)
    mine_N, theirs_N = (
        _stacked_roles(found, names)[:, layer].double() @ found.axis.direction[layer].double()
        for found, layer in ((first, layers[0]), (second, layers[1]))
    )
    drawn_SN = bootstrap_indices(len(names), settings.bootstrap, settings.seed)
    return interval_of(correlate(mine_N, theirs_N, drawn_SN))


def _leanings(
    first: TraitMap | None,
    second: TraitMap | None,
    layers: tuple[int, int],
    settings: CompareSettings,
) -> Interval | None:
    if first is None or second is None or first.axis is None or second.axis is None:
        return None
    names = in_common(first.traits, second.traits)
    mine_N = first.axis.cosine_LN[layers[0], places_of(names, first.traits)]
    theirs_N = second.axis.cosine_LN[layers[1], places_of(names, second.traits)]
    drawn_SN = bootstrap_indices(len(names), settings.bootstrap, settings.seed)
    return interval_of(correlate(mine_N, theirs_N, drawn_SN))


def _axes(
    first: PersonaMap | None, second: PersonaMap | None, settings: CompareSettings
) -> tuple[Interval, ...] | None:
    if first is None or second is None:
        return None
    names = in_common(first.space.roles, second.space.roles)
    mine, theirs = ((found.default_LD, _stacked_roles(found, names)) for found in (first, second))
    return compare_axes(mine, theirs, settings)


def _role_vectors(
    first: PersonaMap | None, second: PersonaMap | None, settings: CompareSettings
) -> VectorComparison | None:
    if first is None or second is None:
        return None
    names = in_common(first.space.roles, second.space.roles)
    # Centred: what all answers share makes any two raw vectors parallel.
    mine, theirs = (
        stacked - stacked.mean(0)
        for stacked in (_stacked_roles(first, names), _stacked_roles(second, names))
    )
    return compare_vectors(names, mine, theirs, first.axis.layer, settings)


def _trait_vectors(
    first: RunMaps, second: RunMaps, settings: CompareSettings
) -> VectorComparison | None:
    if first.traits is None or second.traits is None:
        return None
    names = in_common(first.traits.traits, second.traits.traits)
    mine, theirs = (_stacked_traits(found, names) for found in (first.traits, second.traits))
    return compare_vectors(names, mine, theirs, first.layer, settings)


def _shift(first: RunMaps, second: RunMaps) -> DefaultShift | None:
    if first.roles is None or second.roles is None:
        return None
    return default_shift(first.roles, first.traits, second.roles.default_LD)


def _stacked_roles(found: PersonaMap, names: Sequence[str]) -> Tensor:
    vectors = {vector.role: vector.vector_LD for vector in found.vectors}
    return torch.stack([vectors[name] for name in names])


def _stacked_traits(found: TraitMap, names: Sequence[str]) -> Tensor:
    vectors = {vector.trait: vector.vector_LD for vector in found.vectors}
    return torch.stack([vectors[name] for name in names])


def _warnings(first: RunMaps, second: RunMaps, alike: bool) -> Iterator[str]:
    if not alike:
        yield (
            f"{first.identity.model_id} is {first.identity.layers} × "
            f"{first.identity.hidden_size} and {second.identity.model_id} "
            f"{second.identity.layers} × {second.identity.hidden_size}: vectors of the two cannot "
            "be laid on one another, so only the order of roles and traits is compared."
        )
    for what, mine, theirs in (
        ("roles", _names(first.roles), _names(second.roles)),
        ("traits", _names(first.traits), _names(second.traits)),
    ):
        if mine and theirs:
            yield from _of_names(what, mine, theirs)


def _names(found: PersonaMap | TraitMap | None) -> tuple[str, ...]:
    return () if found is None else found.space.roles


def _of_names(what: str, mine: Sequence[str], theirs: Sequence[str]) -> Iterator[str]:
    common = len(in_common(mine, theirs))
    alone = len(mine) + len(theirs) - 2 * common
    if alone:
        yield (
            f"Of {common + alone} {what}, {common} are in both runs: components are of all that a "
            f"run has, correlations of the {common}."
        )
    if common < _FEW:
        yield f"Only {common} {what} are in common: read the intervals, not the values."
