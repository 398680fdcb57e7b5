"""The native form of tensors: safetensors files with their kind and conventions in the header.

The header's `keel` entry is JSON: format, kind, sign, layer convention, and the value's plain
fields. A file with another sign or layer convention is refused, never guessed at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from keel.arrays import Array, Framework, Tensor, torch
from keel.errors import CorruptArtifactError, NotFiniteError
from keel.store.files import read_tensors, reading, write_tensors
from keel.store.records import from_record, tensors_of, to_record
from keel.types import (
    ActivationBatch,
    AssistantAxis,
    AxisFolds,
    DefaultAnswers,
    PersonaSpace,
    PersonaVector,
    TraitAxis,
    TraitMap,
    TraitVector,
)

T = TypeVar("T")

FORMAT = 1
"""Version of everything that this package writes."""
SIGN = "assistant-ward"
LAYERS = "decoder block output, 0-based"

_LARGEST_FLOAT16 = 60_000
"""Below float16's own limit of 65504, to leave room for rounding."""


def save_axis(axis: AssistantAxis, path: Path) -> None:
    """Write an axis with its identity and provenance."""
    save_value(axis, path, "axis")


def read_axis(path: Path, framework: Framework = "pt") -> AssistantAxis:
    """An axis that `save_axis` wrote."""
    axis = read_value(AssistantAxis, path, "axis", framework)
    with reading(path, "an axis"):
        layers, hidden = axis.vector.shape
        if (layers, hidden) != (axis.identity.layers, axis.identity.hidden_size):
            raise ValueError(f"the vector is [{layers}, {hidden}], not as its identity says")
        for name in ("default_projection", "role_projection", "residual_norm"):
            if getattr(axis, name).shape != (layers,):
                raise ValueError(f"{name} is {list(getattr(axis, name).shape)}, not [{layers}]")
    return axis


def save_value(
    value: AssistantAxis | AxisFolds | PersonaSpace | DefaultAnswers, path: Path, kind: str
) -> None:
    """Write a dataclass of tensors and plain fields."""
    write_artefact(path, kind, tensors_of(value), to_record(value))


def read_value(type_: type[T], path: Path, kind: str, framework: Framework = "pt") -> T:
    """A dataclass that `save_value` wrote."""
    facts, tensors = read_artefact(path, kind, framework)
    with reading(path, f"a Keel file of kind {kind}"):
        return from_record(type_, facts, tensors)


def save_vectors(vectors: Sequence[PersonaVector], default_LD: Tensor, path: Path) -> None:
    """Write role vectors, stacked, beside the default's mean activation."""
    stacked = torch.stack([vector.vector_LD for vector in vectors]) if vectors else torch.empty(0)
    facts = {"vectors": to_record(list(vectors))}
    write_artefact(path, "vectors", {"roles": stacked, "default": default_LD}, facts)


def read_vectors(
    path: Path, framework: Framework = "pt"
) -> tuple[tuple[PersonaVector, ...], Array]:
    """Role vectors and the default's mean activation."""
    facts, tensors = read_artefact(path, "vectors", framework)
    with reading(path, "role vectors"):
        return _unstacked(PersonaVector, facts["vectors"], tensors["roles"]), tensors["default"]


def save_traits(traits: TraitMap, path: Path) -> None:
    """Write a trait map: vectors, their space, and their cosines with the axis."""
    tensors = {"vectors": torch.stack([vector.vector_LD for vector in traits.vectors])}
    for prefix, value in (("", traits), ("space.", traits.space), ("axis.", traits.axis)):
        if value is not None:
            tensors |= {f"{prefix}{name}": part for name, part in tensors_of(value).items()}
    write_artefact(path, "traits", tensors, to_record(traits))


def read_traits(path: Path, framework: Framework = "pt") -> TraitMap:
    """A trait map that `save_traits` wrote."""
    facts, tensors = read_artefact(path, "traits", framework)
    with reading(path, "a trait map"):
        parts: dict[str, dict[str, Array]] = {"": {}, "space": {}, "axis": {}}
        for name, tensor in tensors.items():
            owner, _, key = name.rpartition(".")
            parts[owner][key] = tensor
        vectors = _unstacked(TraitVector, facts.pop("vectors"), parts[""].pop("vectors"))
        space = from_record(PersonaSpace, facts.pop("space"), parts["space"])
        axis = facts.pop("axis")
        if axis is not None:
            axis = from_record(TraitAxis, axis, parts["axis"])
        given = {**parts[""], "vectors": vectors, "space": space, "axis": axis}
        return from_record(TraitMap, facts, given)


def save_activations(batch: ActivationBatch, path: Path) -> None:
    """Write response means as float16, norms as float32.

    Some models' residual streams (Gemma's) reach past float16's 65504: a batch that does is
    written as bfloat16 instead, and the reader takes either. Raises NotFiniteError, naming the
    rollout, on NaN or Inf.
    """
    for rollout_id, *parts in zip(batch.rollout_ids, batch.means_BLD, batch.norms_BL, strict=True):
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            raise NotFiniteError(
                f"activations of rollout {rollout_id} hold NaN or Inf; "
                "load the model in bfloat16 or float32, or look at its weights"
            )
    fits = bool((batch.means_BLD.abs() <= _LARGEST_FLOAT16).all())
    means = batch.means_BLD.to(torch.float16 if fits else torch.bfloat16)
    tensors = {"means": means, "norms": batch.norms_BL.float()}
    if batch.tokens_B is not None:
        tensors["tokens"] = batch.tokens_B
    write_artefact(path, "activations", tensors, {"rollouts": list(batch.rollout_ids)})


def read_activations(path: Path) -> ActivationBatch:
    """Response means and norms, in float32, and how many tokens they are over."""
    facts, tensors = read_artefact(path, "activations")
    with reading(path, "a batch of activations"):
        ids, means, norms = tuple(facts["rollouts"]), tensors["means"].float(), tensors["norms"]
        if not len(ids) == len(means) == len(norms):
            raise ValueError(f"{len(ids)} rollouts with {len(means)} means and {len(norms)} norms")
        return ActivationBatch(ids, means, norms, tensors.get("tokens"))


def write_artefact(
    path: Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Write tensors with a header that says what they are."""
    header = {"format": FORMAT, "kind": kind, "sign": SIGN, "layers": LAYERS, "facts": facts}
    # One entry only: with several, safetensors writes them in random order and hashes differ.
    write_tensors(path, tensors, {"keel": json.dumps(header, allow_nan=False)})


def read_artefact(
    path: Path, kind: str, framework: Framework = "pt"
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Plain fields and tensors of a native file, after its header was checked."""
    tensors, metadata = read_tensors(path, framework)
    if "keel" not in metadata:
        raise CorruptArtifactError(
            f"{path} is a safetensors file of another program, expected a Keel file of kind "
            f"{kind}; point at one, such as a run's"
        )
    with reading(path, f"a Keel file of kind {kind}"):
        header = json.loads(metadata["keel"])
        check_format(header, path)
        if header["kind"] != kind:
            raise CorruptArtifactError(
                f"{path} is a Keel file of kind {header['kind']}, expected one of kind {kind}; "
                "point at that"
            )
        for name, expected in (("sign", SIGN), ("layers", LAYERS)):
            if header[name] != expected:
                raise ValueError(f"its {name} is {header[name]!r}")
        if not isinstance(header["facts"], dict):
            raise ValueError("its facts are no object")
        return header["facts"], tensors


def check_format(header: Mapping[str, Any], path: Path) -> None:
    """Refuse what another version of Keel wrote in another form."""
    if "format" not in header:
        raise CorruptArtifactError(
            f"{path} says no format, expected {FORMAT}: Keel did not write it so; restore it from "
            "a copy, or make the run anew"
        )
    if header["format"] != FORMAT:
        raise CorruptArtifactError(
            f"{path} has format {header['format']!r}, this Keel reads {FORMAT}; "
            "use the version of Keel that wrote it"
        )


def _unstacked(kind: type[T], records: Sequence[Any], vectors: Array) -> tuple[T, ...]:
    """One vector for each of the records and each of the rows."""
    rows = zip(records, vectors, strict=True)
    return tuple(from_record(kind, record, {"vector_LD": vector}) for record, vector in rows)
