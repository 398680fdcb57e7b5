"""Fetches one file of an axis or of floors from the model hub. Knows nothing of what it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from keel.errors import MissingArtifactError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w.+-]+)*")
_KINDS = ("model", "dataset")
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
    repository = "/".join(source.split("/")[:2])
    candidates = list(_candidates(source, names))
    try:
        found = _first_on_hub(repository, candidates)
    except Exception as error:  # its HTTP library's own, which differ from release to release
        found = _first_in_cache(repository, candidates)
        if found is None:
            raise _unreachable(source, error) from error
    if found is None:
        raise MissingArtifactError(
            f"{source} is no local path, and on the hub there is no such repository with "
            f"{' or '.join(candidates)}; check the name, and log in if it is private"
        )
    return found


def _candidates(source: str, names: Sequence[str]) -> Iterator[str]:
    inside = "/".join(source.split("/")[2:])
    if inside.endswith(_SUFFIXES):
        yield inside
    else:
        yield from (f"{inside}/{name}" if inside else name for name in names)


def _first_on_hub(repository: str, candidates: Sequence[str]) -> Path | None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    for kind, name in product(_KINDS, candidates):
        try:
            # Asked first, for it fails at once without a network; a download tries for 20 s.
            get_hf_file_metadata(hf_hub_url(repository, name, repo_type=kind))
        except (EntryNotFoundError, RepositoryNotFoundError):
            continue
        return Path(hf_hub_download(repository, name, repo_type=kind))
    return None


def _first_in_cache(repository: str, candidates: Sequence[str]) -> Path | None:
    """What was downloaded before, for when there is no network."""
    from huggingface_hub import try_to_load_from_cache

    looked_up = (
        try_to_load_from_cache(repository, name, repo_type=kind)
        for kind, name in product(_KINDS, candidates)
    )
    return next((Path(path) for path in looked_up if isinstance(path, str)), None)


def _unreachable(source: str, error: Exception) -> MissingArtifactError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return MissingArtifactError(
        f"{source} is no local path, and could not be fetched from the hub: {reason}; "
        "check the path and the network, or download the file and point at it"
    )
