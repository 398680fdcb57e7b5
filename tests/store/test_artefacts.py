"""Tensors that travel say who they are, and strangers are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from keel.errors import CorruptArtifactError, MissingArtifactError, NotFiniteError
from keel.store.artefacts import (
    read_activations,
    read_axis,
    read_value,
    read_vectors,
    save_activations,
    save_axis,
    save_value,
    save_vectors,
)
from keel.store.files import read_tensors, sha256_of, write_tensors
from keel.types import ActivationBatch, AssistantAxis, ModelIdentity, PersonaMap, PersonaSpace


def same(first: object, second: object) -> bool:
    """Equality field by field: tensors bit by bit, in the same dtype."""
    for field in dataclasses.fields(first):  # type: ignore[arg-type]
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, torch.Tensor):
            if a.dtype != b.dtype or not torch.equal(a.nan_to_num(-9e9), b.nan_to_num(-9e9)):
                return False
        elif a != b:
            return False
    return True


def test_an_axis_comes_back_with_all_that_it_says(tmp_path: Path, axis: AssistantAxis):
    save_axis(axis, tmp_path / "axis.safetensors")
    assert same(read_axis(tmp_path / "axis.safetensors"), axis)


@pytest.mark.parametrize(("layers", "hidden"), [(1, 1), (3, 7), (2, 1023)])
def test_an_axis_in_bfloat16_of_odd_shape_comes_back(tmp_path: Path, layers: int, hidden: int):
    row = torch.full((layers,), float("nan"))
    vector = torch.randn(layers, hidden).bfloat16()
    given = AssistantAxis(vector, 0, row, row, row, ModelIdentity("odd", layers, hidden))
    save_axis(given, tmp_path / "axis.safetensors")
    assert same(read_axis(tmp_path / "axis.safetensors"), given)


def test_the_same_axis_is_the_same_file_byte_for_byte(tmp_path: Path, axis: AssistantAxis):
    for name in ("a", "b"):
        save_axis(axis, tmp_path / name)
    assert sha256_of(tmp_path / "a") == sha256_of(tmp_path / "b")


def test_anyone_can_read_sign_layers_and_model_from_the_header(tmp_path: Path, axis: AssistantAxis):
    save_axis(axis, tmp_path / "axis.safetensors")
    header = json.loads(read_tensors(tmp_path / "axis.safetensors")[1]["keel"])
    assert (header["kind"], header["sign"]) == ("axis", "assistant-ward")
    assert header["layers"] == "decoder block output, 0-based"
    assert header["facts"]["identity"]["model_id"] == "tiny"
    assert header["facts"]["provenance"] == {"roles": 3, "label": "fully"}


def test_space_and_vectors_come_back(tmp_path: Path, found_map: PersonaMap):
    save_value(found_map.space, tmp_path / "space", "space")
    save_vectors(found_map.vectors, found_map.default_LD, tmp_path / "vectors")
    vectors, default_LD = read_vectors(tmp_path / "vectors")
    assert same(read_value(PersonaSpace, tmp_path / "space", "space"), found_map.space)
    assert all(same(a, b) for a, b in zip(vectors, found_map.vectors, strict=True))
    assert torch.equal(default_LD, found_map.default_LD)


def _with_header(path: Path, **changes: object) -> None:
    tensors, metadata = read_tensors(path)
    header = {**json.loads(metadata["keel"]), **changes}
    write_tensors(path, tensors, {"keel": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sign": "role-ward"}, "its sign is 'role-ward'"),
        ({"layers": "1-based"}, "its layers is '1-based'"),
        ({"kind": "floors"}, "is a Keel file of kind floors, expected one of kind axis"),
        ({"format": 2}, "has format 2, this Keel reads 1; use the version"),
        ({"facts": []}, "its facts are no object"),
        ({"facts": {"layr": 3}}, r"axis: AssistantAxis has unknown fields \['layr'\]"),
    ],
)
def test_another_convention_is_refused_not_guessed_at(
    tmp_path: Path, axis: AssistantAxis, change: dict[str, object], words: str
):
    save_axis(axis, tmp_path / "axis")
    _with_header(tmp_path / "axis", **change)
    with pytest.raises(CorruptArtifactError, match=words):
        read_axis(tmp_path / "axis")


def test_a_safetensors_file_of_others_is_refused(tmp_path: Path):
    write_tensors(tmp_path / "model.safetensors", {"w": torch.ones(2)}, {"format": "pt"})
    with pytest.raises(
        CorruptArtifactError, match="of another program, expected a Keel file of kind axis"
    ):
        read_axis(tmp_path / "model.safetensors")


def test_a_vector_of_another_shape_than_its_identity_is_refused(
    tmp_path: Path, axis: AssistantAxis
):
    save_axis(dataclasses.replace(axis, vector=torch.ones(4, 5)), tmp_path / "axis")
    with pytest.raises(CorruptArtifactError, match=r"the vector is \[4, 5\]"):
        read_axis(tmp_path / "axis")


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_a_truncated_file_is_told_from_a_missing_one(
    tmp_path: Path, axis: AssistantAxis, kept: int
):
    path = tmp_path / "axis.safetensors"
    save_axis(axis, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorruptArtifactError, match="restore it from a copy, or delete it"):
        read_axis(path)
    path.unlink()
    with pytest.raises(MissingArtifactError, match=r"axis\.safetensors is not there"):
        read_axis(path)


def test_a_folder_and_garbage_are_refused(tmp_path: Path):
    with pytest.raises(CorruptArtifactError):
        read_axis(tmp_path)
    (tmp_path / "garbage").write_bytes(b"\x00\xff" * 5000)
    with pytest.raises(CorruptArtifactError, match="garbage is not a safetensors file"):
        read_axis(tmp_path / "garbage")


@pytest.mark.usefixtures("locked_out")
def test_a_file_that_may_not_be_read_says_how_to_change_that(tmp_path: Path, axis: AssistantAxis):
    save_axis(axis, tmp_path / "axis")
    (tmp_path / "axis").chmod(0)
    with pytest.raises(CorruptArtifactError, match="chmod u\\+r"):
        read_axis(tmp_path / "axis")


def test_means_are_halved_on_disk_and_come_back_in_float32(
    tmp_path: Path, activations: ActivationBatch
):
    save_activations(activations, tmp_path / "batch")
    found = read_activations(tmp_path / "batch")
    stored = read_tensors(tmp_path / "batch")[0]
    assert (stored["means"].dtype, stored["norms"].dtype) == (torch.float16, torch.float32)
    assert found.means_BLD.dtype == torch.float32
    # multiples of 1/64 below 8 are exact in float16
    assert same(found, activations)


def test_how_many_tokens_means_are_over_comes_back(tmp_path, activations: ActivationBatch):
    counted = dataclasses.replace(activations, tokens_B=torch.arange(6))
    save_activations(counted, tmp_path / "batch")
    assert same(read_activations(tmp_path / "batch"), counted)


def test_means_past_the_reach_of_float16_are_kept_in_bfloat16_not_as_infinity(tmp_path: Path):
    # 2^17 = 131072 is twice float16's largest number and exact in bfloat16
    means = torch.tensor([[[131072.0, -1.5]]])
    save_activations(ActivationBatch(("a",), means, torch.ones(1, 1)), tmp_path / "batch")
    found = read_activations(tmp_path / "batch")
    assert torch.equal(found.means_BLD, means)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["means_BLD", "norms_BL"])
def test_nan_and_infinity_are_refused_with_the_rollout_that_has_them(
    tmp_path: Path, activations: ActivationBatch, bad: float, where: str
):
    getattr(activations, where)[3].view(-1)[-1] = bad
    with pytest.raises(NotFiniteError, match="rollout pirate/p0/q3 hold NaN or Inf"):
        save_activations(activations, tmp_path / "batch")
    assert not (tmp_path / "batch").exists()
