"""A small task of lm-eval's on a tiny model."""

from __future__ import annotations

from pathlib import Path

from keel import pipeline
from keel.evaluate.capability import (
    CapabilitySettings,
    open_task,
    task_answerer,
    task_evaluation,
)
from keel.store import RunFolder
from tests.evaluate.capability.small import CAPPED, PLAIN
from tests.pipeline.small import open_small


def evaluate_sums(model: Path, run: Path, sums: Path) -> None:
    """Sums of the user's own under two arms."""
    settings = CapabilitySettings(max_new_tokens=8, batch_size=3)
    task = open_task("gsm8k", settings, data=sums)
    answerer = task_answerer(task, open_small(model))
    pipeline.evaluate(RunFolder(run), task_evaluation(task, answerer, (PLAIN, CAPPED)))
