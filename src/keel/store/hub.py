"""Fetches one file of an axis or of floors from the model hub. Knows nothing of what it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from keel.errors import MissingArtifactError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w.+-]+)*")
_SUFFIXES = (".pt", ".safetensors")


def locate(source: str | Path, names: Sequence[str]) -> Path:
    """A local file or folder as it is; else the first of `names` found under a hub id.

    A hub id is `org/name`, or `org/name/folder`, or `org/name/path/to/file.pt`, of a model or a
    data set. Raises MissingArtifactError when there is neither.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not is_hub_id(str(source)):
        raise MissingArtifactError(
            f"{path} is not there; point at a file, a run folder, or a hub id such as org/name"
        )
    return _download(str(source), names)


def is_hub_id(source: str) -> bool:
    """Whether a text could name a repository of the hub, or a place in one."""
    is_local_file = source.count("/") == 1 and source.endswith(_SUFFIXES)
    return bool(_HUB_ID.fullmatch(source)) and source[0] != "." and not is_local_file


def _download(source: str, names: Sequence[str]) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    repository = "/".join(source.split("/")[:2])
    for kind in ("model", "dataset"):
        for name in _candidates(source, names):
            try:
                return Path(hf_hub_download(repository, name, repo_type=kind))
            except LocalEntryNotFoundError as error:
                raise _unreachable(source, error) from error
            except RepositoryNotFoundError:
                break
            except EntryNotFoundError:
                continue
            except (HFValidationError, HfHubHTTPError, OSError) as error:
                raise _unreachable(source, error) from error
    raise MissingArtifactError(
        f"{source} is no local path, and on the hub there is no such repository with "
        f"{' or '.join(_candidates(source, names))}; check the name, and log in if it is private"
    )


def _candidates(source: str, names: Sequence[str]) -> Iterator[str]:
    inside = "/".join(source.split("/")[2:])
    if inside.endswith(_SUFFIXES):
        yield inside
    else:
        yield from (f"{inside}/{name}" if inside else name for name in names)


def _unreachable(source: str, error: Exception) -> MissingArtifactError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return MissingArtifactError(
        f"{source} is no local path, and the hub did not answer: {reason}; "
        "check the path and the network, or download the file and point at it"
    )
