"""Two runs side by side, in all that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keel.compare.similarity import (
    Stacked,
    compare_axes,
    compare_spaces,
    compare_vectors,
    correlation,
    default_shift,
    in_common,
    indices_of,
    unrelated_axes,
)
from keel.errors import TooFewSamplesError, UsageError
from keel.settings import CompareSettings
from keel.types import ModelIdentity, PersonaMap, RunComparison, TraitMap

_FEWEST = 4
"""Names in common: with three, any two orders correlate strongly."""
_FEW = 20


@dataclass(frozen=True)
class RunMaps:
    """The persona map and the trait map of one run, at least one of them."""

    name: str
    identity: ModelIdentity
    roles: PersonaMap | None
    traits: TraitMap | None

    def __post_init__(self) -> None:
        if self.roles is None and self.traits is None:
            raise UsageError(f"run {self.name} holds no map; extract one first")

    @property
    def layer(self) -> int:
        """The layer at which its maps are read."""
        if self.roles is not None:
            return self.roles.axis.layer
        assert self.traits is not None
        return self.traits.layer

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and hidden size: vectors have cosines between models of one shape only."""
        return self.identity.layers, self.identity.hidden_size

    @property
    def kinds(self) -> str:
        """Which maps it holds: `roles and traits`."""
        held = (("roles", self.roles), ("traits", self.traits))
        return " and ".join(kind for kind, of_kind in held if of_kind is not None)


def compare_maps(
    first: RunMaps, second: RunMaps, settings: CompareSettings = CompareSettings()
) -> RunComparison:
    """How alike two runs' spaces are, and what changed from the first to the second.

    Models of one width are compared layer by layer, and read at the first one's layer; others by
    their loadings alone, each at its own. Raises UsageError where the two share no kind of map,
    TooFewSamplesError with fewer than four roles or traits in common.
    """
    parts: dict[str, Any] = {}
    if first.roles is not None and second.roles is not None:
        parts |= _compare_roles(first, second, first.roles, second.roles, settings)
    if first.traits is not None and second.traits is not None:
        parts |= _compare_traits(first, second, first.traits, second.traits, settings)
    if not parts:
        raise UsageError(
            f"{first.name} holds {first.kinds} and {second.name} {second.kinds}; to compare "
            "them, extract the same of both, with --what"
        )
    warnings = tuple(_warnings(first, second))
    return RunComparison(first=first.name, second=second.name, warnings=warnings, **parts)


def _compare_roles(
    first: RunMaps,
    second: RunMaps,
    mine: PersonaMap,
    theirs: PersonaMap,
    settings: CompareSettings,
) -> dict[str, Any]:
    """What two runs' roles say: spaces, standings on the axes; with one shape vectors and axes."""
    names = _enough_in_common("roles", first, second, mine, theirs)
    layers = (first.layer, first.layer if first.shape == second.shape else second.layer)
    stacked = [
        _stacked({vector.role: vector.vector_LD for vector in side.vectors}, names)
        for side in (mine, theirs)
    ]
    projections = [
        vectors_NLD[:, layer].double() @ side.axis.direction[layer].double()
        for vectors_NLD, side, layer in zip(stacked, (mine, theirs), layers, strict=True)
    ]
    parts: dict[str, Any] = {
        "roles": compare_spaces(mine.space, theirs.space, names, layers, most=settings.components),
        "standings": correlation(projections[0], projections[1]),
    }
    if first.shape == second.shape:
        common = (stacked[0], stacked[1])
        parts["axes"] = compare_axes(mine, theirs, common)
        defaults = (mine.default_LD, theirs.default_LD)
        parts["axes_null"] = unrelated_axes(defaults, common, settings.seed)
        # Centred: what all answers share makes any two raw vectors parallel.
        centred = [vectors_NLD - vectors_NLD.mean(0) for vectors_NLD in stacked]
        parts["role_vectors"] = compare_vectors(names, centred, mine.axis.layer)
        parts["shift"] = default_shift(mine, first.traits, theirs.default_LD)
    return parts


def _compare_traits(
    first: RunMaps, second: RunMaps, mine: TraitMap, theirs: TraitMap, settings: CompareSettings
) -> dict[str, Any]:
    """What two runs' traits say: spaces, cosines with the axes; with one shape vectors, too."""
    names = _enough_in_common("traits", first, second, mine, theirs)
    layers = (first.layer, first.layer if first.shape == second.shape else second.layer)
    parts: dict[str, Any] = {
        "traits": compare_spaces(mine.space, theirs.space, names, layers, most=settings.components)
    }
    if mine.axis is not None and theirs.axis is not None:
        parts["leanings"] = correlation(
            mine.axis.cosine_LN[layers[0], indices_of(names, mine.traits)],
            theirs.axis.cosine_LN[layers[1], indices_of(names, theirs.traits)],
        )
    if first.shape == second.shape:
        stacked = [
            _stacked({vector.trait: vector.vector_LD for vector in side.vectors}, names)
            for side in (mine, theirs)
        ]
        parts["trait_vectors"] = compare_vectors(names, stacked, first.layer)
    return parts


def _stacked(vectors: Mapping[str, Tensor], names: Sequence[str]) -> Stacked:
    return torch.stack([vectors[name] for name in names])


def _enough_in_common(
    kind: str,
    first: RunMaps,
    second: RunMaps,
    mine: PersonaMap | TraitMap,
    theirs: PersonaMap | TraitMap,
) -> list[str]:
    common = in_common(mine.space.roles, theirs.space.roles)
    if len(common) < _FEWEST:
        raise TooFewSamplesError(
            f"{kind} of {first.name} and {second.name} have {len(common)} in common "
            f"({', '.join(common) or 'none'}), expected {_FEWEST} or more; extract the same of "
            "both: the same library, scale and --choice-seed"
        )
    return common


def _warnings(first: RunMaps, second: RunMaps) -> Iterator[str]:
    if first.shape != second.shape:
        yield (
            f"{first.identity.model_id} is {first.shape[0]} × {first.shape[1]} and "
            f"{second.identity.model_id} {second.shape[0]} × {second.shape[1]}: vectors of the two "
            "cannot be laid on one another, so only the order of roles and traits is compared."
        )
    for run in (first, second):
        if run.roles is not None and run.roles.axis_folds is None:
            yield (
                f"{run.name} was mapped by an older Keel: its axis is taken as it is, so the "
                "cosine of the axes is less sure than it looks; map it again."
            )
    for kind, mine, theirs in (
        ("roles", first.roles, second.roles),
        ("traits", first.traits, second.traits),
    ):
        if mine is None or theirs is None:
            continue
        common = len(in_common(mine.space.roles, theirs.space.roles))
        alone = len(mine.space.roles) + len(theirs.space.roles) - 2 * common
        if alone:
            yield (
                f"Of {common + alone} {kind}, {common} are in both runs: components are of all "
                f"that a run has, correlations of the {common}."
            )
        if common < _FEW:
            yield f"Only {common} {kind} are in common: read the intervals, not the values."
