"""A run's trait space as one file: vectors, PCA, and how they lie to axis and default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from keel.store.artefacts import read_artefact, write_artefact
from keel.store.reading import reading
from keel.store.records import from_record, tensors_of, to_record
from keel.types import PersonaSpace, TraitAxis, TraitMap, TraitVector

_SPACE, _AXIS = "space.", "axis."


def save_traits(found: TraitMap, path: Path) -> None:
    """Write a trait map."""
    stacked = torch.stack([vector.vector_LD for vector in found.vectors])
    tensors = {"vectors": stacked, **tensors_of(found), **_named(_SPACE, tensors_of(found.space))}
    if found.axis is not None:
        tensors |= _named(_AXIS, tensors_of(found.axis))
    write_artefact(path, "traits", tensors, to_record(found))


def read_traits(path: Path) -> TraitMap:
    """A trait map that `save_traits` wrote."""
    found = read_artefact(path, "traits")
    with reading(path, "a trait map"):
        tensors, facts = dict(found.tensors), dict(found.facts)
        space = from_record(PersonaSpace, facts.pop("space"), _taken(_SPACE, tensors))
        axis = facts.pop("axis")
        lean = None if axis is None else from_record(TraitAxis, axis, _taken(_AXIS, tensors))
        rows = zip(facts.pop("vectors"), tensors.pop("vectors"), strict=True)
        vectors = tuple(from_record(TraitVector, r, {"vector_LD": v}) for r, v in rows)
        given = {"vectors": vectors, "space": space, "axis": lean}
        return from_record(TraitMap, facts, {**tensors, **given})


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _taken(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under a prefix, taken out of the others, in place."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}
