"""`python -m tests.pipeline.capability MODEL RUN SUMS`: a small task, to be killed."""

from __future__ import annotations

import sys
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

if __name__ == "__main__":
    model, run, sums = map(Path, sys.argv[1:])
    settings = CapabilitySettings(max_new_tokens=8, batch_size=3)
    task = open_task("gsm8k", settings, data=sums)
    answerer = task_answerer(task, open_small(model))
    pipeline.evaluate(RunFolder(run), task_evaluation(task, answerer, (PLAIN, CAPPED)))
