"""Axes and steering vectors in other programs' files: told by content, not by name, and written.

Read are the reference's `.pt`, persona_vectors' `.pt` with a row for the embedding, lm-eval's steer
files, numpy's `.npy` and `.npz`, and llama.cpp's GGUF control vectors. None but GGUF files of
Keel's own says its sign.

llama.cpp and lm-eval can only add vectors: floors have no such form. llama.cpp's `direction.N` is
added to the output of block N, counted from 0, as Keel counts: its loader stores it at index N − 1
and its graph reads index N − 1 for block N. Block 0 cannot be steered.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from keel.arrays import Tensor, torch
from keel.errors import CorruptArtifactError, NotFiniteError, UsageError
from keel.settings import Orientation
from keel.store.files import read_pickled_tensors, reading, replacing
from keel.store.foreign import save_pt
from keel.types import AssistantAxis, ModelIdentity

FirstRow = Literal["block-0", "embedding"]
"""What a tensor's first row is of: the first block's output, or what the embedding gives it."""


@dataclass(frozen=True)
class PublishedAxis:
    """An axis that its authors put on a hub."""

    source: str
    """Hub id with folder."""
    model: str
    layers: int
    hidden_size: int
    layer: int
    """Where the paper reads."""
    setting: str = ""
    """Which of the published floors their code takes; empty where there are none."""


_LU = "lu-christina/assistant-axis-vectors"
PUBLISHED = (
    PublishedAxis(f"{_LU}/gemma-2-27b", "google/gemma-2-27b-it", 46, 4608, 22),
    PublishedAxis(f"{_LU}/qwen-3-32b", "Qwen/Qwen3-32B", 64, 5120, 32, "layers_46:54-p0.25"),
    PublishedAxis(
        *(f"{_LU}/llama-3.3-70b", "meta-llama/Llama-3.3-70B-Instruct", 80, 8192, 40),
        "layers_56:72-p0.25",
    ),
)
"""Lu et al. 2026 (arXiv:2601.10387): a data set of the hub's, with `assistant_axis.pt`,
`default_vector.pt` and, but for Gemma's, `capping_config.pt` for each model."""
_PAPER_LAYERS = {(each.layers, each.hidden_size): each.layer for each in PUBLISHED}
_PREFIX = "direction."
_BLOCK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|direction)[._]?(\d+)$|^(\d+)$")
"""Names of one block's vector: `direction.3`, `layers.3`, `transformer.h.3`, `layer_3`, `3`."""
_PERSONA_VECTORS = re.compile(r"_(?:prompt|response)_(?:avg|last)_diff$")
"""How persona_vectors calls its files; their rows are of `hidden_states`."""
_IS_BY_BLOCK = re.compile("axis|contrast").search
"""Whether a file is called as the reference calls its own, which have a row for each block."""
ROWS_ASSUMED = "block 0 first: assumed, since neither the file nor a model says it"
"""What `provenance["rows_in_file"]` holds of a tensor whose first row nothing tells."""


@dataclass(frozen=True)
class _Rows:
    """Vectors by block, as they stand in a file."""

    by_layer: dict[int, Tensor]
    orientation: Orientation | None = None
    """None where the file does not say it, and its kind of file has none by custom."""
    facts: dict[str, Any] = field(default_factory=dict)
    are_named: bool = True
    """Whether the file says which block each vector is of, so that nothing else need say it."""


def read_foreign_axis(
    path: Path,
    *,
    orientation: Orientation | None = None,
    first_row: FirstRow | None = None,
    identity: ModelIdentity | None = None,
) -> AssistantAxis:
    """The axis or steering vector in another program's file, a row for each block.

    Such a file says neither its model, nor where default and roles lie: the gap and the residual
    norms are NaN, and `provenance["gap"]` is `"unknown"`. Blocks that it has no vector for are
    zero. `identity` tells how many blocks there are. Raises UsageError where the file does not say
    its sign, or which block its first row is of, and no argument does, and where `first_row`
    contradicts the model, or a file that names its blocks.
    """
    rows = _rows_of(path, first_row, identity)
    if first_row is not None and rows.are_named:
        raise UsageError(
            f"{path} names the block of each vector, so there is nothing for --first-row to say; "
            "leave it out"
        )
    if not rows.by_layer:
        raise UsageError(f"{path} holds no vector; point at a file with a row or entry per layer")
    sign = orientation or rows.orientation
    if sign is None:
        why = " and contrast vectors were published role-ward," if "contrast" in path.name else ""
        raise UsageError(
            f"{path} does not say its sign,{why} so say which way its vectors point: --orientation "
            'role-ward (in Python orientation="role-ward") if adding them takes the model away '
            "from its assistant character, assistant-ward if towards it"
        )
    layers = max(max(rows.by_layer) + 1, 0 if identity is None else identity.layers)
    hidden = len(next(iter(rows.by_layer.values())))
    vector_LD = torch.zeros(layers, hidden)
    for layer, row in rows.by_layer.items():
        if row.shape != (hidden,):
            raise UsageError(
                f"{path} has a vector {list(row.shape)} for layer {layer} beside one of {hidden} "
                "numbers; expected all of one width"
            )
        vector_LD[layer] = row.float()
    is_papers = (layers, hidden) in _PAPER_LAYERS
    filled = [n for n in range(layers) if bool(vector_LD[n].any())] or [*range(layers)]
    unknown_L = torch.full((layers,), math.nan)
    return AssistantAxis(
        vector=-vector_LD if sign == "role-ward" else vector_LD,
        layer=_PAPER_LAYERS.get((layers, hidden), filled[len(filled) // 2]),
        default_projection=unknown_L,
        role_projection=unknown_L.clone(),
        residual_norm=unknown_L.clone(),
        identity=ModelIdentity("unknown", layers=layers, hidden_size=hidden),
        provenance={
            "source": path.name,
            "sign_in_file": sign,
            "gap": "unknown",
            "layer": "the paper's" if is_papers else "the middle one",
            "identity": "not in the file",
            **rows.facts,
        },
    )


def _rows_of(path: Path, first_row: FirstRow | None, identity: ModelIdentity | None) -> _Rows:
    with reading(path, "a file of vectors"), path.open("rb") as handle:
        magic = handle.read(6)
    if magic.startswith(b"GGUF") or path.suffix == ".gguf":
        rows = read_gguf_control_vector(path)
        return _Rows(rows, _gguf_orientation(path), {"form": "llama.cpp's control vector"})
    if magic == b"\x93NUMPY" or _is_npz(path):
        with reading(path, "a numpy file of numbers"):
            content = np.load(path, allow_pickle=False)
            arrays = dict(content) if isinstance(content, np.lib.npyio.NpzFile) else content
            tensors = _as_tensors(arrays)
        return _of_content(tensors, path, first_row, identity, custom=None)
    content = read_pickled_tensors(path)
    custom: Orientation | None = "assistant-ward"
    if "contrast" in path.name or _PERSONA_VECTORS.search(path.stem):
        custom = None
    return _of_content(content, path, first_row, identity, custom=custom)


def _is_npz(path: Path) -> bool:
    """Whether a zip is numpy's; torch's `.pt` is a zip, too."""
    if not zipfile.is_zipfile(path):
        return path.suffix == ".npz"
    with zipfile.ZipFile(path) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())


def _as_tensors(arrays: Any) -> Any:
    if isinstance(arrays, dict):
        return {name: _as_tensors(array) for name, array in arrays.items()}
    if not np.issubdtype(arrays.dtype, np.floating):
        raise ValueError(f"it holds {arrays.dtype}, expected floats")
    return torch.from_numpy(arrays.astype(np.float32))


def _of_content(
    content: Any,
    path: Path,
    first_row: FirstRow | None,
    identity: ModelIdentity | None,
    *,
    custom: Orientation | None,
) -> _Rows:
    """Rows of a tensor, of one in a dictionary, of an entry per block, or of lm-eval's hooks."""
    if isinstance(content, Mapping) and content:
        if all(isinstance(entry, Mapping) and "action" in entry for entry in content.values()):
            return _of_hooks(content, path)
        names = [_BLOCK.search(str(key)) for key in content]
        if all(names) and all(
            isinstance(row, torch.Tensor) and row.ndim == 1 for row in content.values()
        ):
            numbers = [int(match[1] or match[2]) for match in names if match]
            return _Rows(dict(zip(numbers, content.values(), strict=True)))
    vector_LD = _axis_tensor(content, path)
    is_named = isinstance(content, Mapping)
    starts = first_row or _first_row(path, len(vector_LD), identity, is_named=is_named)
    is_hidden = starts == "embedding"
    facts = {"rows_in_file": "hidden_states: the last is after the final norm"} if is_hidden else {}
    if first_row is None and identity is None and not is_hidden and not _IS_BY_BLOCK(path.name):
        facts = {"rows_in_file": ROWS_ASSUMED}
    rows_LD = vector_LD[1:] if starts == "embedding" else vector_LD
    if identity is not None and first_row is not None and len(rows_LD) != identity.layers:
        raise UsageError(
            f"{path} has {len(vector_LD)} rows, which with --first-row {first_row} are of "
            f"{len(rows_LD)} blocks, and {identity.model_id} has {identity.layers}; leave "
            "--first-row out"
        )
    return _Rows(dict(enumerate(rows_LD)), custom, facts, are_named=False)


def _first_row(
    path: Path, count: int, identity: ModelIdentity | None, *, is_named: bool
) -> FirstRow:
    """What the first row is of: by the model's number of blocks, by the file's name, by custom."""
    if identity is not None:
        return "embedding" if count == identity.layers + 1 else "block-0"
    if _PERSONA_VECTORS.search(path.stem):
        return "embedding"
    if count % 2 and not is_named and not _IS_BY_BLOCK(path.name):
        raise UsageError(
            f"{path} has {count} rows: {count} blocks, or {count - 1} and the embedding in front, "
            "as in hidden_states; say which with --model MODEL, or with --first-row block-0 or "
            "embedding"
        )
    return "block-0"


def _axis_tensor(content: Any, path: Path) -> Tensor:
    if isinstance(content, Mapping):
        keys = ("axis", "vector", "arr_0")
        content = next((content[key] for key in keys if key in content), content)
    if isinstance(content, Mapping) and len(content) == 1:
        (single,) = content.values()
        content = single if isinstance(single, torch.Tensor) else content
    if not isinstance(content, torch.Tensor):
        keys_in = f" with keys {list(content)[:4]}" if isinstance(content, Mapping) else ""
        raise CorruptArtifactError(
            f"{path} holds a {type(content).__name__}{keys_in}, expected a tensor, or a dictionary "
            "with `axis` or `vector`; point at the file of the axis"
        )
    if content.ndim != 2 or not content.is_floating_point():
        raise UsageError(
            f"{path} holds a {content.dtype} tensor {list(content.shape)}, expected floats "
            "[layers, hidden]; give the axis of all layers"
        )
    return content.detach().float().clone()


def _of_hooks(content: Mapping[Any, Any], path: Path) -> _Rows:
    """What lm-eval's `steered` adds at each hook point: vector × coefficient."""
    rows: dict[int, Tensor] = {}
    for name, entry in content.items():
        match = _BLOCK.search(str(name))
        has_more = entry.get("bias") is not None or entry.get("head_index") is not None
        if match is None or entry["action"] != "add" or has_more:
            raise UsageError(
                f"{path} has {entry['action']!r} at {name!r}, expected vectors that are added to "
                "the output of whole blocks, such as layers.12; leave the others out"
            )
        vector = torch.as_tensor(entry["steering_vector"]).detach().float().flatten()
        rows[int(match[1] or match[2])] = vector * float(entry.get("steering_coefficient", 1.0))
    return _Rows(rows, None, {"form": "lm-eval's steer file"})


def export_axis_pt(axis: AssistantAxis, path: str | Path) -> None:
    """Write the axis as the reference does: `{"axis": tensor}`, assistant-ward, not normalised."""
    save_pt({"axis": axis.vector.detach().cpu().clone()}, Path(path))


def export_lm_eval_steering(
    vector_LD: Float[Tensor, "layer hidden"],
    path: str | Path,
    *,
    blocks: str,
    layers: Collection[int],
) -> None:
    """Write vectors for lm-eval's model `steered` to add to the output of some blocks.

    `blocks` is the path of the list of blocks below the model's base model, such as `layers`.
    Each vector is written as its direction and its length. Raises UsageError for a layer that is
    not there, NotFiniteError for vectors that hold NaN.
    """
    _check_vectors(vector_LD, layers, first=0)
    save_pt(
        {
            f"{blocks}.{layer}": {
                "steering_vector": torch.nn.functional.normalize(vector_LD[layer].float(), dim=0),
                "steering_coefficient": float(vector_LD[layer].float().norm()),
                "action": "add",
                "bias": None,
                "head_index": None,
            }
            for layer in sorted(set(layers))
        },
        Path(path),
    )


def export_gguf_control_vector(
    vector_LD: Float[Tensor, "layer hidden"],
    path: str | Path,
    *,
    identity: ModelIdentity,
    layers: Collection[int],
    orientation: Orientation = "assistant-ward",
) -> None:
    """Write vectors for llama.cpp to add to the output of some blocks, at its scale 1.

    `vector_LD` has a row per block, strength included, e.g. `strength * axis.direction`. All blocks
    but block 0 are written, zeros where nothing is added, since llama.cpp keeps what an earlier
    vector left at blocks that a later one does not name. Raises UsageError on block 0, which
    llama.cpp leaves alone.
    """
    import gguf

    expected = (identity.layers, identity.hidden_size)
    if tuple(vector_LD.shape) != expected:
        raise UsageError(
            f"vector is {list(vector_LD.shape)}, expected {list(expected)} for {identity.model_id}"
        )
    _check_vectors(vector_LD, layers, first=1)
    rows_LD = torch.zeros(expected)
    rows_LD[sorted(set(layers))] = vector_LD.detach().float().cpu()[sorted(set(layers))]
    with replacing(Path(path), 4 * identity.hidden_size * identity.layers) as scratch:
        writer = gguf.GGUFWriter(scratch, "controlvector")
        try:
            writer.add_string("controlvector.model_hint", identity.model_id)
            writer.add_uint32("controlvector.layer_count", identity.layers - 1)
            writer.add_string("keel.orientation", orientation)
            for layer in range(1, identity.layers):
                writer.add_tensor(f"{_PREFIX}{layer}", rows_LD[layer].contiguous().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def _check_vectors(vector_LD: Tensor, layers: Collection[int], *, first: int) -> None:
    count = len(vector_LD)
    if not layers or not all(first <= layer < count for layer in layers):
        why = ": llama.cpp cannot add to block 0" if first else ""
        raise UsageError(
            f"layers are {sorted(layers)}, expected some of {first} to {count - 1}{why}; choose "
            "others with --band"
        )
    if not bool(torch.isfinite(vector_LD).all()):
        raise NotFiniteError("the steering vector holds NaN or Inf; look at where it came from")


def read_gguf_control_vector(path: str | Path) -> dict[int, Float[Tensor, " hidden"]]:
    """The vectors of a control vector file by block (counted from 0), in float32.

    Types that gguf can unpack are unpacked. Raises UsageError for others, and for a file that
    holds a model.
    """
    import gguf

    path = Path(path)
    with reading(path, "a GGUF control vector"):
        if not path.stat().st_size:
            raise ValueError("it is empty")  # the reader cannot map an empty file
        try:
            reader = gguf.GGUFReader(path)
        except (ValueError, IndexError, KeyError) as error:
            raise ValueError("its head is cut short or damaged") from error
        rows: dict[int, Tensor] = {}
        for tensor in reader.tensors:
            if tensor.name.startswith(_PREFIX):
                values = _unpacked(tensor, path)
                rows[int(tensor.name.removeprefix(_PREFIX))] = torch.from_numpy(values)
        if not rows and reader.tensors:
            raise UsageError(
                f"{path} holds {reader.tensors[0].name} and the like, expected direction.N: a "
                "model, not a control vector; give it where a MODEL is wanted"
            )
        if not rows:
            raise ValueError("it holds no tensor called direction.N")
        return rows


def _unpacked(tensor: Any, path: Path) -> Any:
    """A tensor's numbers in float32, flat. Raises UsageError for a type that gguf cannot unpack."""
    import gguf

    kind = tensor.tensor_type
    if kind == gguf.GGMLQuantizationType.F64:
        return np.array(tensor.data, dtype=np.float32).reshape(-1)
    try:
        return np.array(gguf.dequantize(tensor.data, kind), dtype=np.float32).reshape(-1)
    except NotImplementedError:
        raise UsageError(
            f"{path} has {tensor.name} of type {kind.name}, which gguf cannot unpack; write it as "
            "float32"
        ) from None


def _gguf_orientation(path: Path) -> Orientation | None:
    """What a control vector of Keel's own says; None for others'."""
    import gguf

    said = gguf.GGUFReader(path).fields.get("keel.orientation")
    text = None if said is None else said.contents()
    return text if text in ("assistant-ward", "role-ward") else None
