"""One tiny model and one run on it, made once; tests that change a run get a copy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from keel import pipeline
from keel.calibrate import CalibrateSettings
from keel.store import RunFolder
from keel.testing import save_tiny_model
from tests.pipeline.small import INPUTS, SETTINGS, open_small


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a download would be."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", "llama")


@pytest.fixture
def engine(model_folder: Path) -> Any:
    """The tiny Llama, loaded afresh: tests may break it."""
    return open_small(model_folder)


@pytest.fixture(scope="session")
def whole(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted. To be read only."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    pipeline.extract(open_small(model_folder), RunFolder(path), SETTINGS, inputs=INPUTS)
    return path


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> RunFolder:
    """A finished run of the test's own."""
    shutil.copytree(whole, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="session")
def whole_with_floors(
    whole: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run that nothing interrupted, calibrated. To be read only."""
    path = tmp_path_factory.mktemp("runs") / "calibrated"
    shutil.copytree(whole, path)
    settings = CalibrateSettings(percentiles=(50.0, 75.0), priced_rollouts=4)
    pipeline.calibrate(open_small(model_folder), RunFolder(path), settings)
    return path


@pytest.fixture
def calibrated(whole_with_floors: Path, tmp_path: Path) -> RunFolder:
    """A calibrated run of the test's own."""
    shutil.copytree(whole_with_floors, tmp_path / "calibrated")
    return RunFolder(tmp_path / "calibrated")
