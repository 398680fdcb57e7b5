"""A run that was copied away and back is the same to the byte; a copy cut off is none."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

import keel
from keel.errors import (
    CorruptArtifactError,
    MissingArtifactError,
    MissingExtraError,
    StaleArtifactError,
    StorageError,
    UsageError,
)
from keel.store import RunFolder, RunPlan, pull_run, push_run
from keel.types import Prompt

URL = "memory://bucket/runs/mine"


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    """fsspec's own store in memory, which has folders and files and no renames."""
    yield
    store = fsspec.filesystem("memory")
    for path in store.ls("/", detail=False):
        store.rm(path, recursive=True)


@pytest.fixture
def made(finished: RunFolder) -> Path:
    """A finished run."""
    return finished.path


def contents(run: Path) -> dict[str, bytes]:
    found = (p for p in run.rglob("*") if p.is_file() and ".lock" not in p.name)
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in found}


@pytest.mark.parametrize("url", [URL, "file://{}/copy", "{}/plain/path"])
def test_a_run_comes_back_to_the_byte(url: str, made: Path, tmp_path: Path):
    url = url.format(tmp_path)
    assert push_run(made, url) == sum(map(len, contents(made).values()))
    pull_run(url, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(made)
    assert keel.open_run(tmp_path / "back").axis.layer == keel.open_run(made).axis.layer


def test_a_copy_is_brought_up_to_date_by_another(made: Path, tmp_path: Path):
    """A report made later goes over what was there."""
    run = RunFolder(shutil.copytree(made, tmp_path / "mine"))
    push_run(run.path, URL)
    run.write_report("<html></html>")
    push_run(run.path, URL)
    pull_run(URL, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(run.path)


@pytest.mark.parametrize("to", ["{}", "file://{}", "{}/../made-again/"])
def test_a_run_copied_onto_itself_is_refused_and_stays_whole(made: Path, to: str):
    """It lost its manifest, which is taken off a copy first, and was unfinished from then on."""
    (made.parent / "made-again").symlink_to(made)
    before = contents(made)
    with pytest.raises(UsageError, match="is the run itself; give another folder or URL"):
        push_run(made, to.format(made))
    assert contents(made) == before


def test_a_copy_cut_off_is_no_run(made: Path, tmp_path: Path, monkeypatch):
    """Also where a whole one was before: its manifest goes first."""
    push_run(made, URL)
    cut_off_after(5, monkeypatch, "pipe_file")
    with pytest.raises(StorageError, match="refused: the line is dead; .* run the same command"):
        push_run(made, URL)
    monkeypatch.undo()
    with pytest.raises(MissingArtifactError, match=f"{URL} holds no finished run"):
        pull_run(URL, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_fetch_cut_off_goes_on(made: Path, tmp_path: Path, monkeypatch):
    """What it left is the beginning of the very run, never of another."""
    push_run(made, URL)
    cut_off_after(3, monkeypatch, "cat_file")
    with pytest.raises(StorageError, match="the line is dead"):
        pull_run(URL, tmp_path / "back")
    assert not RunFolder(tmp_path / "back").is_finished
    assert RunFolder(tmp_path / "back").is_begun
    monkeypatch.undo()
    pull_run(URL, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(made)


def test_another_run_is_never_written_over(made: Path, plan, prompts, tmp_path: Path):
    other = begun_otherwise(tmp_path / "other", plan, prompts)
    before = contents(other)
    push_run(made, URL)
    with pytest.raises(StaleArtifactError, match=f"{URL} holds another run"):
        push_run(other, URL)
    with pytest.raises(StaleArtifactError, match="other holds another run"):
        pull_run(URL, other)
    assert contents(other) == before
    pull_run(URL, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(made)


def test_what_was_damaged_is_noticed_on_either_way(made: Path, tmp_path: Path):
    run = shutil.copytree(made, tmp_path / "mine")
    (run / "map.json").write_bytes(b"{}")
    with pytest.raises(CorruptArtifactError, match=r"map\.json has SHA-256 .* the manifest says"):
        push_run(run, URL)
    push_run(made, URL)
    fsspec.filesystem("memory").pipe_file("/bucket/runs/mine/map.json", b"{}")
    with pytest.raises(CorruptArtifactError, match=r"runs/mine/map\.json has SHA-256"):
        pull_run(URL, tmp_path / "back")


def test_a_manifest_cannot_write_outside_of_the_folder(made: Path, tmp_path: Path):
    push_run(made, URL)
    store = fsspec.filesystem("memory")
    manifest = json.loads(store.cat_file("/bucket/runs/mine/manifest.json"))
    manifest["files"]["../escaped"] = "0" * 64
    store.pipe_file("/bucket/runs/mine/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(CorruptArtifactError, match="outside of a run"):
        pull_run(URL, tmp_path / "back")
    assert not (tmp_path / "escaped").exists()


def test_an_unfinished_run_is_not_copied(made: Path, tmp_path: Path):
    run = shutil.copytree(made, tmp_path / "mine")
    (run / "manifest.json").unlink()
    with pytest.raises(MissingArtifactError, match="is not finished"):
        push_run(run, URL)


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("nowhere://bucket/run", UsageError, "Protocol not known: nowhere; expected such as s3://"),
        ("memory://bucket/none", MissingArtifactError, "keel export RUN --to run -o memory://"),
    ],
)
def test_a_place_that_is_none_is_refused(url, error, said, tmp_path: Path):
    with pytest.raises(error, match=said):
        pull_run(url, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_store_whose_package_is_missing_is_named(made: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match="s3://bucket/run needs a package: .*s3fs"):
        push_run(made, "s3://bucket/run")


def begun_otherwise(path: Path, plan: RunPlan, prompts: list[Prompt]) -> Path:
    """A finished run with another seed."""
    folder = RunFolder(path)
    folder.begin(replace(plan, seed=8), prompts)
    folder.finish(counts={})
    return path


def cut_off_after(count: int, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The store stops answering after so many files."""
    kind = type(fsspec.filesystem("memory"))
    whole, left = getattr(kind, method), [None] * count

    def until(self, *arguments, **more):
        if not left:
            raise ConnectionResetError("the line is dead")
        left.pop()
        return whole(self, *arguments, **more)

    monkeypatch.setattr(kind, method, until)
