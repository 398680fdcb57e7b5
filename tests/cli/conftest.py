"""A tiny model, a finished and a calibrated run on it, made once by the commands themselves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from keel.cli import run as run_command
from keel.testing import save_tiny_model
from tests.cli.commands import CPU, SMALL, Outcome

Keel = Callable[..., Outcome]


@pytest.fixture
def keel(capsys: pytest.CaptureFixture[str]) -> Keel:
    """`keel ...` as a function."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run_command([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a download would be."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", "llama")


@pytest.fixture(scope="session")
def bare_run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. To be read only."""
    path = tmp_path_factory.mktemp("runs") / "bare"
    assert run_command(["extract", str(model), "-o", str(path), *SMALL]) == 0
    return path


@pytest.fixture(scope="session")
def held_run(bare_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, calibrated. To be read only."""
    path = tmp_path_factory.mktemp("runs") / "held"
    shutil.copytree(bare_run, path)
    heights = ("--percentile", "50", "--percentile", "75", "--band", "1:3", "--band", "2:4")
    assert run_command(["calibrate", str(path), *heights, "--answers", "4", *CPU]) == 0
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, so that commands can be given short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bare(bare_run: Path, place: Path) -> Path:
    """A finished run of the test's own, called `bare`."""
    shutil.copytree(bare_run, place / "bare")
    return Path("bare")


@pytest.fixture
def held(held_run: Path, place: Path) -> Path:
    """A calibrated run of the test's own, called `held`."""
    shutil.copytree(held_run, place / "held")
    return Path("held")
