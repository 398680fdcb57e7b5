"""A whole extraction: prompts, answers, activations, persona map, run folder."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from typing import Any

import keel
from benchmarks.arms.texts import MODEL
from benchmarks.measuring import measured
from keel.personas import MapSettings
from keel.pipeline import ExtractSettings, extract
from keel.prompts import PromptSettings
from keel.store import RunFolder
from keel.types import Sampling


def extraction(*, roles: int, questions: int, rows: int, new_tokens: int) -> dict[str, Any]:
    """What an extraction takes that answers each question as the default (5 ways) and each role.

    Batches have the same rows however long the run is, so that only its length makes a difference.
    """
    engine: Any = keel.open_engine(MODEL)
    engine.budget = replace(engine.budget, rows=rows)
    settings = ExtractSettings(
        prompts=PromptSettings(roles, questions, 1),
        sampling=Sampling(max_new_tokens=new_tokens),
        mapping=MapSettings(min_count=1),
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(folder)
        taken = measured(lambda: extract(engine, run, settings))
        rollouts = sum(1 for _ in run.read().rollouts())
    return {"measurement": asdict(taken), "rollouts": rollouts, "dtype": engine.identity.dtype}
