"""A tiny model and runs on it, made once; a task of Inspect's with items of ours."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog
from inspect_ai.scorer import includes

from keel import pipeline
from keel.calibrate import CalibrateSettings
from keel.serve import ServedModel, open_served
from keel.store import RunFolder
from keel.testing import save_tiny_model
from tests.pipeline.small import INPUTS, SETTINGS, open_small

QUESTIONS = (
    "What is the sea?",
    "Who keeps the lighthouse at night?",
    "Name a bird.",
    "Where do rivers end, and why?",
    "What is bread made of?",
    "How does a clock know the time?",
)


@pytest.fixture(scope="session")
def bare_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a tiny Llama, without floors. To be read only."""
    model = save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", "llama")
    path = tmp_path_factory.mktemp("runs") / "bare"
    pipeline.extract(open_small(model), RunFolder(path), SETTINGS, inputs=INPUTS)
    return path


@pytest.fixture(scope="session")
def held_run(bare_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with floors under two settings and more. To be read only."""
    path = tmp_path_factory.mktemp("runs") / "held"
    shutil.copytree(bare_run, path)
    engine = open_small(Path(RunFolder(path).read().identity.model_id))
    settings = CalibrateSettings(percentiles=(50.0, 75.0), priced_rollouts=4)
    pipeline.calibrate(engine, RunFolder(path), settings)
    return path


@pytest.fixture
def held(held_run: Path) -> ServedModel:
    """The model of the run with floors, as it is served by default."""
    return open_served(held_run, device="cpu", dtype="float32")


@pytest.fixture
def task() -> Task:
    """Mild questions; the scorer looks for a letter, since a tiny model says nothing sensible."""
    return Task(dataset=[Sample(one, target="e") for one in QUESTIONS], scorer=includes())


@pytest.fixture
def evaluated(tmp_path: Path) -> Callable[..., EvalLog]:
    """Inspect's `eval` with logs of the test's own; `model_args` are what `-M` gives."""

    def call(task: Task, run: Path, model_args: dict[str, Any] | None = None, **more: Any):
        given = {"device": "cpu", "dtype": "float32", **(model_args or {})}
        (log,) = eval(
            task,
            model=f"keel/{run}",
            model_args=given,
            log_dir=str(tmp_path / "logs"),
            display="none",
            max_tokens=8,
            **more,
        )
        return log

    return call
