"""Copies of finished runs, wherever fsspec reaches: S3, GCS, the hub, another disk.

A run is made on a disk that has locks and renames; most stores have neither. What they have is
enough for a copy: files are checked against the manifest on the way, and the manifest goes last, so
that a copy that was cut off is no run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from keel.errors import (
    CorruptArtifactError,
    KeelError,
    MissingArtifactError,
    MissingExtraError,
    StaleArtifactError,
    StorageError,
    UsageError,
)
from keel.store.files import reading, sha256_of, write_bytes
from keel.store.folder import RunFolder
from keel.store.layout import MANIFEST, PLAN
from keel.store.provenance import Manifest, parse_manifest, read_manifest
from keel.words import first_line


def push_run(run: str | Path, url: str) -> int:
    """Copy a finished run to a URL such as `s3://bucket/runs/mine`; returns the bytes written.

    What an earlier copy left there is written over. Raises StaleArtifactError when another run is
    there, MissingExtraError when fsspec lacks the package for the URL.
    """
    root = Path(run)
    manifest = read_manifest(root)
    remote = _folder_at(url)
    if root.resolve() == Path(url.removeprefix("file://")).resolve():
        raise UsageError(f"{url} is the run itself; give another folder or URL for its copy")
    written_bytes = 0
    with _store_errors(url):
        if remote.exists(MANIFEST):
            there = parse_manifest(
                remote.cat_file(MANIFEST), Path(MANIFEST), f"a manifest, read from {url}"
            )
            _check_same(there.files.get(PLAN), manifest, url)
            remote.rm_file(MANIFEST)
        for name in (*manifest.files, MANIFEST):
            with reading(root / name, "a file"):
                data = (root / name).read_bytes()
            if name != MANIFEST:
                _check_hash(data, manifest.files[name], str(root / name))
            remote.makedirs(name.rpartition("/")[0], exist_ok=True)
            remote.pipe_file(name, data)
            written_bytes += len(data)
    return written_bytes


def pull_run(url: str, run: str | Path) -> int:
    """Copy a finished run from a URL to a folder; returns the bytes read.

    Goes on where an earlier call was cut off. Raises MissingArtifactError when no finished run is
    there, StaleArtifactError when the folder holds another.
    """
    remote, folder = _folder_at(url), RunFolder(run)
    with _store_errors(url):
        written = bytes(remote.cat_file(MANIFEST))
    manifest = parse_manifest(written, Path(MANIFEST), f"a manifest, read from {url}")
    if folder.is_begun:
        _check_same(sha256_of(folder.path / PLAN), manifest, folder.path)
    # The plan first: a copy that is cut off is then the beginning of that run, and of no other.
    names = sorted(manifest.files, key=lambda name: name != PLAN)
    read_bytes = len(written)
    with folder.lock():
        for name in names:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name:
                raise CorruptArtifactError(
                    f"{url} lists {name!r}, outside of a run; do not trust it"
                )
            with _store_errors(url):
                data = bytes(remote.cat_file(name))
            _check_hash(data, manifest.files[name], f"{url}/{name}")
            write_bytes(folder.path / name, data)
            read_bytes += len(data)
        write_bytes(folder.path / MANIFEST, written)
    return read_bytes


def _folder_at(url: str) -> Any:
    """The folder that a URL names, as a file system of its own; opens no connection yet."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.dirfs import DirFileSystem

    try:
        system, root = url_to_fs(url)
    except ImportError as error:
        raise MissingExtraError(f"{url} needs a package: {error}; pip install it") from error
    except ValueError as error:
        raise UsageError(f"{url}: {error}; expected such as s3://bucket/folder") from error
    return DirFileSystem(str(root).rstrip("/"), system)


@contextmanager
def _store_errors(url: str) -> Iterator[None]:
    """Turns errors of the file system into ours, in one line."""
    try:
        yield
    except KeelError:
        raise
    except FileNotFoundError as error:
        raise MissingArtifactError(
            f"{url} holds no finished run ({error}); check the URL, or push one there: "
            f"keel export RUN --to run -o {url}"
        ) from error
    except Exception as error:  # each store has its own
        raise StorageError(
            f"{url} refused: {first_line(error)}; check the URL and your credentials, and run the "
            "same command again"
        ) from error


def _check_same(plan_sha256: str | None, manifest: Manifest, where: str | Path) -> None:
    """Refuse to mix two runs: one has one plan."""
    if plan_sha256 is None or plan_sha256 != manifest.files.get(PLAN):
        raise StaleArtifactError(f"{where} holds another run; choose another folder with -o")


def _check_hash(data: bytes, expected: str, what: str) -> None:
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise CorruptArtifactError(
            f"{what} has SHA-256 {actual[:12]}…, the manifest says {expected[:12]}…; "
            "copy the run again from where it was made"
        )
