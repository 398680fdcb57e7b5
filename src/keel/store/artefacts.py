"""The native form of tensors: safetensors files with their kind and conventions in the header.

The header's `keel` entry is JSON: format, kind, sign, layer convention, and the value's plain
fields. A file with another sign or layer convention is refused, never guessed at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keel.errors import CorruptArtifactError, NotFiniteError
from keel.store.files import read_tensors, reading, write_tensors
from keel.store.records import from_record, tensors_of, to_record
from keel.types import (
    ActivationBatch,
    AssistantAxis,
    PersonaSpace,
    PersonaVector,
    TraitAxis,
    TraitMap,
    TraitVector,
)

FORMAT = 1
"""Version of everything that this package writes."""
SIGN = "assistant-ward"
LAYERS = "decoder block output, 0-based"

_LARGEST_FLOAT16 = 60_000
"""Below float16's own limit of 65504, to leave room for rounding."""


@dataclass(frozen=True)
class Artefact:
    """Tensors and plain fields of a native file."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save_axis(axis: AssistantAxis, path: Path) -> None:
    """Write an axis with its identity and provenance."""
    write_artefact(path, "axis", tensors_of(axis), to_record(axis))


def read_axis(path: Path) -> AssistantAxis:
    """An axis that `save_axis` wrote."""
    file = read_artefact(path, "axis")
    with reading(path, "an axis"):
        axis = from_record(AssistantAxis, file.facts, file.tensors)
        _check_shapes(axis)
    return axis


def save_space(space: PersonaSpace, path: Path) -> None:
    """Write a persona space."""
    write_artefact(path, "space", tensors_of(space), to_record(space))


def read_space(path: Path) -> PersonaSpace:
    """A persona space that `save_space` wrote."""
    file = read_artefact(path, "space")
    with reading(path, "a persona space"):
        return from_record(PersonaSpace, file.facts, file.tensors)


def save_vectors(vectors: Sequence[PersonaVector], default_LD: Tensor, path: Path) -> None:
    """Write role vectors, stacked, beside the default's mean activation."""
    stacked = torch.stack([vector.vector_LD for vector in vectors]) if vectors else torch.empty(0)
    facts = {"vectors": to_record(list(vectors))}
    write_artefact(path, "vectors", {"roles": stacked, "default": default_LD}, facts)


def read_vectors(path: Path) -> tuple[tuple[PersonaVector, ...], Tensor]:
    """Role vectors and the default's mean activation."""
    file = read_artefact(path, "vectors")
    with reading(path, "role vectors"):
        rows = zip(file.facts["vectors"], file.tensors["roles"], strict=True)
        vectors = tuple(from_record(PersonaVector, r, {"vector_LD": v}) for r, v in rows)
        return vectors, file.tensors["default"]


def save_traits(traits: TraitMap, path: Path) -> None:
    """Write a trait map: vectors, their space, and their cosines with the axis."""
    stacked = torch.stack([vector.vector_LD for vector in traits.vectors])
    tensors = {"vectors": stacked, **tensors_of(traits), **_prefixed("space.", traits.space)}
    if traits.axis is not None:
        tensors |= _prefixed("axis.", traits.axis)
    write_artefact(path, "traits", tensors, to_record(traits))


def read_traits(path: Path) -> TraitMap:
    """A trait map that `save_traits` wrote."""
    file = read_artefact(path, "traits")
    with reading(path, "a trait map"):
        tensors, facts = dict(file.tensors), dict(file.facts)
        space = from_record(PersonaSpace, facts.pop("space"), _taken("space.", tensors))
        axis = facts.pop("axis")
        if axis is not None:
            axis = from_record(TraitAxis, axis, _taken("axis.", tensors))
        rows = zip(facts.pop("vectors"), tensors.pop("vectors"), strict=True)
        vectors = tuple(from_record(TraitVector, r, {"vector_LD": v}) for r, v in rows)
        given = {"vectors": vectors, "space": space, "axis": axis}
        return from_record(TraitMap, facts, {**tensors, **given})


def save_activations(batch: ActivationBatch, path: Path) -> None:
    """Write response means as float16, norms as float32.

    Some models' residual streams (Gemma's) reach past float16's 65504: a batch that does is
    written as bfloat16 instead, and the reader takes either. Raises NotFiniteError, naming the
    rollout, on NaN or Inf.
    """
    _check_finite(batch)
    fits = float(batch.means_BLD.abs().max()) <= _LARGEST_FLOAT16
    means = batch.means_BLD.to(torch.float16 if fits else torch.bfloat16)
    tensors = {"means": means, "norms": batch.norms_BL.float()}
    write_artefact(path, "activations", tensors, {"rollouts": list(batch.rollout_ids)})


def read_activations(path: Path) -> ActivationBatch:
    """Response means and norms, in float32."""
    file = read_artefact(path, "activations")
    with reading(path, "a batch of activations"):
        ids = tuple(file.facts["rollouts"])
        means, norms = file.tensors["means"].float(), file.tensors["norms"]
        if not len(ids) == len(means) == len(norms):
            raise ValueError(f"{len(ids)} rollouts with {len(means)} means and {len(norms)} norms")
        return ActivationBatch(ids, means, norms)


def write_artefact(
    path: Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Write tensors with a header that says what they are."""
    header = {"format": FORMAT, "kind": kind, "sign": SIGN, "layers": LAYERS, "facts": facts}
    # One entry only: with several, safetensors writes them in random order and hashes differ.
    write_tensors(path, tensors, {"keel": json.dumps(header, allow_nan=False)})


def read_artefact(path: Path, kind: str) -> Artefact:
    """Tensors and facts of a native file, after its header was checked."""
    tensors, metadata = read_tensors(path)
    with reading(path, f"a Keel file of kind {kind}"):
        if "keel" not in metadata:
            raise ValueError("its header has no `keel` entry")
        header = json.loads(metadata["keel"])
        check_format(header, path)
        for name, expected in (("kind", kind), ("sign", SIGN), ("layers", LAYERS)):
            if header[name] != expected:
                raise ValueError(f"its {name} is {header[name]!r}")
        if not isinstance(header["facts"], dict):
            raise ValueError("its facts are no object")
        return Artefact(tensors, header["facts"])


def check_format(header: Mapping[str, Any], path: Path) -> None:
    """Refuse what another version of Keel wrote in another form."""
    if header.get("format") != FORMAT:
        raise CorruptArtifactError(
            f"{path} has format {header.get('format')!r}, this Keel reads {FORMAT}; "
            "use the version of Keel that wrote it"
        )


def _check_shapes(axis: AssistantAxis) -> None:
    layers, hidden = axis.vector.shape
    if (layers, hidden) != (axis.identity.layers, axis.identity.hidden_size):
        raise ValueError(f"the vector is [{layers}, {hidden}], not as its identity says")
    for name in ("default_projection", "role_projection", "residual_norm"):
        if getattr(axis, name).shape != (layers,):
            raise ValueError(f"{name} is {list(getattr(axis, name).shape)}, not [{layers}]")


def _check_finite(batch: ActivationBatch) -> None:
    for row, rollout_id in enumerate(batch.rollout_ids):
        for part in (batch.means_BLD[row], batch.norms_BL[row]):
            if not bool(torch.isfinite(part).all()):
                raise NotFiniteError(
                    f"activations of rollout {rollout_id} hold NaN or Inf; "
                    "load the model in bfloat16 or float32, or look at its weights"
                )


def _prefixed(prefix: str, value: PersonaSpace | TraitAxis) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors_of(value).items()}


def _taken(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under a prefix, taken out of the others, in place."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}
