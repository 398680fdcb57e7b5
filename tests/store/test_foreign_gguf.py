"""Control vectors for llama.cpp: its layout, its counting, its limits."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch

from keel.errors import CorruptArtifactError, MissingArtifactError, NotFiniteError, UsageError
from keel.store import export_gguf_control_vector, read_gguf_control_vector
from keel.types import ModelIdentity


def test_rows_come_back_at_their_blocks_and_zeros_at_the_others(
    tmp_path: Path, identity: ModelIdentity
):
    vector = torch.randn(4, 6, dtype=torch.bfloat16)
    export_gguf_control_vector(vector, tmp_path / "v.gguf", identity=identity, layers=[3, 1])
    found = read_gguf_control_vector(tmp_path / "v.gguf")
    assert sorted(found) == [1, 2, 3]
    for layer in (1, 3):
        assert torch.equal(found[layer], vector[layer].float())
    assert not found[2].any()  # else what an earlier vector left there would stay


def test_the_file_is_as_llama_cpp_loads_it(tmp_path: Path, identity: ModelIdentity):
    """Its loader takes one-dimensional float32 tensors `direction.N`, N at least 1."""
    export_gguf_control_vector(
        torch.ones(4, 6), tmp_path / "v.gguf", identity=identity, layers=range(1, 4)
    )
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert [t.name for t in reader.tensors] == ["direction.1", "direction.2", "direction.3"]
    assert {(t.tensor_type, tuple(t.shape)) for t in reader.tensors} == {
        (gguf.GGMLQuantizationType.F32, (6,))
    }
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "tiny"
    assert fields["controlvector.layer_count"] == 3


@pytest.mark.parametrize("layers", [[0, 1], [4], [-1], []])
def test_block_0_and_blocks_that_are_not_there_are_refused(
    tmp_path: Path, identity: ModelIdentity, layers: list[int]
):
    with pytest.raises(
        UsageError, match="expected some of 1 to 3: llama.cpp cannot add to block 0"
    ):
        export_gguf_control_vector(
            torch.ones(4, 6), tmp_path / "v.gguf", identity=identity, layers=layers
        )
    assert not list(tmp_path.iterdir())


def test_a_vector_of_another_shape_or_with_nan_is_refused(tmp_path: Path, identity: ModelIdentity):
    with pytest.raises(UsageError, match=r"vector is \[4, 5\], expected \[4, 6\] for tiny"):
        export_gguf_control_vector(torch.ones(4, 5), tmp_path / "v", identity=identity, layers=[1])
    bad = torch.ones(4, 6)
    bad[2, 2] = float("nan")
    with pytest.raises(NotFiniteError):
        export_gguf_control_vector(bad, tmp_path / "v", identity=identity, layers=[1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"\x00" * 500, b"GGUF\x03\x00\x00\x00" + b"\xff" * 64]
)
def test_damage_is_told_from_absence(tmp_path: Path, content: bytes):
    (tmp_path / "v.gguf").write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=r"v\.gguf is not a GGUF control vector"):
        read_gguf_control_vector(tmp_path / "v.gguf")
    with pytest.raises(MissingArtifactError):
        read_gguf_control_vector(tmp_path / "absent.gguf")
