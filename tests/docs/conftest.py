"""A tiny model and a run of it, for the code of pages and notebooks."""

from __future__ import annotations

from pathlib import Path

import pytest

import keel
from keel import pipeline
from keel.calibrate import CalibrateSettings
from keel.personas import MapSettings
from keel.prompts import PromptSettings
from keel.store import RunFolder
from keel.testing import save_tiny_model
from keel.types import Sampling


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="session")
def finished_run(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of the tiny model, calibrated."""
    engine = keel.open_engine(str(model_folder), dtype="float32")
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "mine")
    settings = pipeline.ExtractSettings(
        prompts=PromptSettings(roles=5, questions=4, prompts_per_question=1),
        sampling=Sampling(max_new_tokens=8),
        mapping=MapSettings(min_count=2),
    )
    pipeline.extract(engine, folder, settings)
    pipeline.calibrate(engine, folder, CalibrateSettings(rollouts=10, priced_rollouts=2))
    return folder.path
