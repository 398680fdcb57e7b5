"""Vectors of other programs are read by what is in their files, or refused with what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from keel.errors import CorruptArtifactError, UsageError
from keel.store import (
    ROWS_ASSUMED,
    export_gguf_control_vector,
    export_lm_eval_steering,
    load_axis,
    read_gguf_control_vector,
)
from keel.types import ModelIdentity

MODEL = ModelIdentity("m", layers=4, hidden_size=32)
VECTORS = torch.arange(4 * 32).reshape(4, 32) / 64 - 1
"""Exact in bfloat16, and in Q8_0 up to its step."""


def control_vector(path: Path, kind: gguf.GGMLQuantizationType) -> Path:
    writer = gguf.GGUFWriter(path, "controlvector")
    for layer in range(1, 4):
        packed = gguf.quantize(VECTORS[layer].numpy(), kind)
        writer.add_tensor(f"direction.{layer}", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_a_control_vector_of_any_type_is_unpacked(tmp_path: Path, kind: str):
    """BF16 and Q8_0 came out as raw bytes once, of twice and of 34 times the width."""
    path = control_vector(tmp_path / "v.gguf", gguf.GGMLQuantizationType[kind])
    for layer, row in read_gguf_control_vector(path).items():
        # Q8_0 keeps 127 steps up to the largest of 32 numbers, here at most 1.
        assert torch.allclose(row, VECTORS[layer], atol=1 / 127)
        assert row.dtype == torch.float32


def test_a_control_vector_is_an_axis_with_zeros_at_block_0(tmp_path: Path):
    path = control_vector(tmp_path / "v.gguf", gguf.GGMLQuantizationType.F32)
    axis = load_axis(path, orientation="role-ward")
    assert torch.equal(axis.vector[1:], -VECTORS[1:])
    assert not axis.vector[0].any()
    assert axis.layer == 2


def test_a_model_s_gguf_is_no_control_vector(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("blk.0.attn_q.weight", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UsageError, match="a model, not a control vector; give it where a MODEL"):
        load_axis(tmp_path / "m.gguf")


FILES = {
    "v.npy": lambda path: np.save(path, VECTORS.numpy()),
    "axis.npz": lambda path: np.savez(path, axis=VECTORS.numpy()),
    "rows.npz": lambda path: np.savez(path, **{f"layer_{n}": VECTORS[n].numpy() for n in range(4)}),
    "rows.pt": lambda path: torch.save({n: VECTORS[n] for n in range(4)}, path),
    "steer.pt": lambda path: export_lm_eval_steering(
        VECTORS, path, blocks="layers", layers=range(4)
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_numpy_s_and_lm_eval_s_files_are_read_and_do_not_say_their_sign(tmp_path: Path, name: str):
    path = tmp_path / name
    FILES[name](path)
    with pytest.raises(UsageError, match="does not say its sign.*--orientation role-ward"):
        load_axis(path)
    axis = load_axis(path, orientation="assistant-ward")
    # lm-eval's form keeps direction and length apart: float32 rounds twice.
    assert torch.allclose(axis.vector, VECTORS, rtol=1e-6)


@pytest.mark.parametrize("name", ["v.npy", "v.npz"])
def test_a_damaged_numpy_file_is_told_from_a_good_one(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(b"\x93NUMPY\x01\x00v\x00 nonsense")
    with pytest.raises(CorruptArtifactError, match="is not a numpy file of numbers"):
        load_axis(path, orientation="assistant-ward")


def test_persona_vectors_rows_begin_with_the_embedding(tmp_path: Path):
    """Without the model every vector lay one block too high once."""
    rows = torch.cat([torch.full((1, 32), 9.0), VECTORS])
    torch.save(rows, tmp_path / "evil_response_avg_diff.pt")
    axis = load_axis(tmp_path / "evil_response_avg_diff.pt", orientation="role-ward")
    assert torch.equal(axis.vector, -VECTORS)
    torch.save(rows, tmp_path / "mine.pt")
    for more in ({"identity": MODEL}, {"first_row": "embedding"}):
        arguments: dict[str, Any] = {"orientation": "role-ward", **more}
        assert torch.equal(load_axis(tmp_path / "mine.pt", **arguments).vector, -VECTORS)


def test_what_was_assumed_of_the_first_row_stands_with_the_axis(tmp_path: Path):
    """An even number of rows was taken as blocks in silence; 27 blocks and the embedding make 28.

    By the model, by `first_row` and by the reference's names nothing is assumed.
    """
    for name in ("mine.pt", "axis.pt"):
        torch.save(VECTORS, tmp_path / name)
    np.save(tmp_path / "v.npy", VECTORS.numpy())
    np.savez(tmp_path / "v.npz", v=VECTORS.numpy())

    def assumed(name: str, **more: Any) -> bool:
        axis = load_axis(tmp_path / name, orientation="assistant-ward", **more)
        return axis.provenance.get("rows_in_file") == ROWS_ASSUMED

    assert all(assumed(name) for name in ("mine.pt", "v.npy", "v.npz"))
    assert not assumed("axis.pt")
    assert not assumed("v.npy", first_row="block-0")
    assert not assumed("v.npy", first_row="embedding")
    assert not assumed("v.npy", identity=MODEL)


@pytest.mark.parametrize("name", ["m.gguf", "rows.npz", "rows.pt", "steer.pt"])
def test_a_first_row_is_refused_where_a_file_names_its_blocks(tmp_path: Path, name: str):
    """It was ignored without a word."""
    path = tmp_path / name
    if name == "m.gguf":
        export_gguf_control_vector(VECTORS, path, identity=MODEL, layers=range(1, 4))
    else:
        FILES[name](path)
    with pytest.raises(UsageError, match="names the block of each vector.*leave it out"):
        load_axis(path, orientation="role-ward", first_row="embedding")


@pytest.mark.parametrize(("rows", "first_row"), [(4, "embedding"), (5, "block-0")])
def test_a_first_row_that_contradicts_the_model_is_refused(tmp_path: Path, rows, first_row):
    """All vectors lay one block off, and the last block had none."""
    torch.save(torch.ones(rows, 32), tmp_path / "mine.pt")
    with pytest.raises(UsageError, match=f"has {rows} rows, which with --first-row {first_row}"):
        load_axis(
            tmp_path / "mine.pt", orientation="role-ward", first_row=first_row, identity=MODEL
        )


def test_rows_that_could_begin_with_the_embedding_are_refused(tmp_path: Path):
    torch.save(torch.ones(5, 32), tmp_path / "mine.pt")
    with pytest.raises(UsageError, match=r"has 5 rows: 5 blocks, or 4 and the embedding.*--model"):
        load_axis(tmp_path / "mine.pt", orientation="role-ward")


@pytest.mark.parametrize(
    ("hook", "entry"),
    [("layers.1", {"action": "clamp"}), ("layers.1.mlp", {}), ("layers.1", {"head_index": 2})],
)
def test_what_lm_eval_does_otherwise_than_add_to_a_block_is_refused(tmp_path, hook, entry):
    steer = {"action": "add", "steering_vector": torch.ones(32), "steering_coefficient": 1.0}
    torch.save({hook: {**steer, **entry}}, tmp_path / "steer.pt")
    with pytest.raises(UsageError, match="expected vectors that are added to the output of whole"):
        load_axis(tmp_path / "steer.pt", orientation="assistant-ward")
