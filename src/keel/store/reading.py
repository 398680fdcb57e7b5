"""Reads files and says plainly what is wrong with them. Knows nothing of what they mean."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from keel.errors import CorruptArtifactError, KeelError, MissingArtifactError

_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    RuntimeError,
    SafetensorError,
    pickle.UnpicklingError,
)


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into an error that names file and remedy."""
    try:
        yield
    except CorruptArtifactError as error:
        if str(path) in str(error):
            raise
        raise CorruptArtifactError(f"{path}: {error}") from error
    except KeelError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingArtifactError(
            f"{path} is not there; run the command that makes it, or point at where it is"
        ) from error
    except PermissionError as error:
        raise CorruptArtifactError(
            f"{path} cannot be read: permission denied; give yourself access: chmod u+r '{path}'"
        ) from error
    except IsADirectoryError as error:
        raise CorruptArtifactError(f"{path} is a folder, expected {expected}") from error
    except _UNREADABLE as error:
        raise CorruptArtifactError(
            f"{path} is not {expected}: {_first_line(error)}; restore it from a copy, or delete it "
            "and run again the command that made it"
        ) from error


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    with reading(path, "JSON"):
        return json.loads(path.read_bytes())


def read_jsonl(path: Path) -> Iterator[Any]:
    """The values in a file of one JSON value per line."""
    with reading(path, "one JSON value per line"), path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                raise ValueError(f"line {number} is cut off")
            yield json.loads(line)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Named tensors and metadata of a safetensors file."""
    with reading(path, "a safetensors file"):
        path.open("rb").close()  # safetensors takes a file that may not be read for a missing one
        with safe_open(path, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            return tensors, dict(handle.metadata() or {})


def read_pickled_tensors(path: Path) -> Any:
    """Contents of a `.pt` file that holds tensors and plain values only; no code is run."""
    with reading(path, "a .pt file of tensors"):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CorruptArtifactError(
                f"{path} holds more than tensors, or is damaged: {_first_line(error)}; Keel runs "
                "no code from files: ask its author for a file of tensors"
            ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
