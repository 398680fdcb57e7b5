"""Control vectors for llama.cpp, as GGUF. It can only add them: floors have no such form.

`direction.N` is added to the output of block N, counted from 0, as Keel counts: llama.cpp's loader
stores it at place N − 1 and its graph reads place N − 1 for block N. Block 0 cannot be steered.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from keel.errors import NotFiniteError, UsageError
from keel.store.atomic import replacing
from keel.store.reading import reading
from keel.types import ModelIdentity

_PREFIX = "direction."


def export_gguf_control_vector(
    vector_LD: Float[Tensor, "layer hidden"],
    path: str | Path,
    *,
    identity: ModelIdentity,
    layers: Collection[int],
) -> None:
    """Write what llama.cpp shall add to the output of some blocks, at its scale 1.

    `vector_LD` has a row per block, strength included, e.g. `strength * axis.direction`;
    assistant-ward at positive strength. Raises UsageError on block 0, which llama.cpp leaves alone.
    """
    _check(vector_LD, identity, layers)
    with replacing(Path(path), vector_LD.shape[1] * 4 * len(layers)) as scratch:
        _write(vector_LD.detach().float().cpu(), scratch, identity, sorted(set(layers)))


def read_gguf_control_vector(path: str | Path) -> dict[int, Float[Tensor, " hidden"]]:
    """What a control vector file adds, by block (counted from 0)."""
    import gguf

    with reading(Path(path), "a GGUF control vector"):
        if not Path(path).stat().st_size:
            raise ValueError("it is empty")  # the reader cannot map an empty file
        found = gguf.GGUFReader(path).tensors
        rows = {t.name: torch.tensor(t.data.copy()) for t in found if t.name.startswith(_PREFIX)}
        if not rows:
            raise ValueError("it holds no tensor called direction.N")
        return {int(name.removeprefix(_PREFIX)): row for name, row in rows.items()}


def _write(vector_LD: Tensor, path: Path, identity: ModelIdentity, layers: list[int]) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "controlvector")
    try:
        writer.add_string("controlvector.model_hint", identity.model_id)
        writer.add_uint32("controlvector.layer_count", len(layers))
        for layer in layers:
            writer.add_tensor(f"{_PREFIX}{layer}", vector_LD[layer].contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _check(vector_LD: Tensor, identity: ModelIdentity, layers: Collection[int]) -> None:
    expected = (identity.layers, identity.hidden_size)
    if tuple(vector_LD.shape) != expected:
        raise UsageError(
            f"vector is {list(vector_LD.shape)}, expected {list(expected)} for {identity.model_id}"
        )
    if not layers or not all(1 <= layer < identity.layers for layer in layers):
        raise UsageError(
            f"layers are {sorted(layers)}, expected some of 1 to {identity.layers - 1}: llama.cpp "
            "cannot add to block 0; choose others"
        )
    if not bool(torch.isfinite(vector_LD).all()):
        raise NotFiniteError("the control vector holds NaN or Inf; look at where it came from")
