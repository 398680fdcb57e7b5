"""Files, written whole or not at all, and read with plain errors. Knows nothing of their meaning.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed.
After a kill the old file is there or the new one, never half of one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from keel.arrays import Array, Framework, Tensor, as_numpy, torch
from keel.errors import CorruptArtifactError, KeelError, MissingArtifactError, StorageError
from keel.words import first_line

_HALVES = "surrogatepass"
"""Text may hold half of a surrogate pair, from a prompt file's escapes; json reads it back."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
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
def replacing(path: Path, size_bytes: int) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` when the block ends without an error.

    Raises StorageError when the disk refuses; `path` is then as it was before.
    """
    if path.is_dir():
        raise refused(path, size_bytes, IsADirectoryError(errno.EISDIR, "it is a folder"))
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.touch()
        mode = scratch.stat().st_mode  # as the umask says; safetensors writes for its owner alone
        yield scratch
        scratch.chmod(mode)
        _flush(scratch)
        scratch.replace(path)
        _flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise refused(path, size_bytes, error) from error
    finally:
        # The write's own error is the one to show; a leftover goes when the run is next locked.
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes."""
    with replacing(path, len(data)) as scratch:
        scratch.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a plain value, indented."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    write_bytes(path, f"{text}\n".encode(errors=_HALVES))


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one plain value per line."""
    write_bytes(path, jsonl(rows))


def jsonl(rows: Iterable[Any]) -> bytes:
    """One line of JSON per row, each ended by a newline."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    return b"".join(line.encode(errors=_HALVES) + b"\n" for line in lines)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors and a few strings, as safetensors."""
    from safetensors.torch import save_file  # brings torch, which reading does without

    # A clone each: safetensors refuses tensors that share memory, and views would drag theirs in.
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path, sum(tensor.nbytes for tensor in whole.values())) as scratch:
        save_file(whole, scratch, metadata=dict(metadata))


def append_lines(path: Path, lines: bytes) -> None:
    """Add whole lines at the end of a file and flush it to the disk.

    A line torn by an earlier kill is cut off first. Raises StorageError when the disk refuses;
    the file is then as long as before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a buffer would be written again on closing, after a failure was undone.
        with path.open("ab+", buffering=0) as handle:
            length = _whole_length(handle.fileno())
            handle.truncate(length)
            try:
                rest = memoryview(lines)
                while rest:  # one write may take a part only
                    rest = rest[os.write(handle.fileno(), rest) :]
                os.fsync(handle.fileno())
            except OSError:
                handle.truncate(length)
                raise
    except OSError as error:
        raise refused(path, len(lines), error) from error


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn any failure while a file is read into an error that names file and remedy."""
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
            f"{path} is not {expected}: {first_line(error)}; restore it from a copy, or delete it "
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


def read_tensors(
    path: Path, framework: Framework = "pt"
) -> tuple[dict[str, Array], dict[str, str]]:
    """Named tensors and metadata of a safetensors file."""
    with reading(path, "a safetensors file"):
        path.open("rb").close()  # safetensors takes a file that may not be read for a missing one
        with safe_open(path, framework=framework) as handle:
            metadata, names = dict(handle.metadata() or {}), list(handle.keys())
            kinds = {handle.get_slice(name).get_dtype() for name in names}
            if framework == "pt" or "BF16" not in kinds:
                return {name: handle.get_tensor(name) for name in names}, metadata
        # A kind of number that numpy does not have.
        arrays: dict[str, Any] = {n: as_numpy(each) for n, each in read_tensors(path)[0].items()}
        return arrays, metadata


def read_pickled_tensors(path: Path) -> Any:
    """Contents of a `.pt` file that holds tensors and plain values only; no code is run."""
    with reading(path, "a .pt file of tensors"):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CorruptArtifactError(
                f"{path} holds more than tensors, or is damaged: {first_line(error)}; Keel runs "
                "no code from files: ask its author for a file of tensors"
            ) from error


def remove_leftovers(root: Path) -> None:
    """Delete temporary files that a killed process left anywhere under `root`.

    Only for the one process that may write there: another's temporary file is not a leftover.
    """
    for pattern in (".*.tmp", ".tmp??????"):  # safetensors writes under a name of its own first
        for scratch in root.rglob(pattern):
            with suppress(OSError):
                scratch.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def refused(path: Path, size_bytes: int, error: Exception) -> StorageError:
    """The error to raise when the disk did not take a file."""
    in_text = re.search(r"os error (\d+)", str(error))  # safetensors' own
    number = error.errno if isinstance(error, OSError) else in_text and int(in_text[1])
    remedy = "look at the disk and run the same command again: finished batches are kept"
    if number in _FULL:
        remedy = "free some space and run the same command again: finished batches are kept"
    elif number in _FORBIDDEN or (number == errno.ENOENT and not path.parent.exists()):
        remedy = "choose a folder that you may write to"
    elif number in (errno.ENOTDIR, errno.EEXIST):
        file = next((p for p in (path, *path.parents) if p.is_file()), path.parent)
        return StorageError(
            f"cannot write to {path}: {file} is a file, not a folder; choose another path"
        )
    elif number == errno.EISDIR or path.is_dir():
        return StorageError(
            f"cannot write to {path}: {path} is a folder; give a file in it, such as "
            f"{path / 'axis.safetensors'}"
        )
    elif number == errno.ENAMETOOLONG:
        remedy = "choose a shorter name"
    return StorageError(f"could not write {path} ({size_bytes} bytes): {error}; {remedy}")


def _flush(path: Path) -> None:
    """Make a file's bytes, or a folder's names, survive a power cut."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _whole_length(descriptor: int) -> int:
    """Length of a file up to the end of its last whole line."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
