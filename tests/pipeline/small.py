"""A run so small that a test can afford one: a tiny model, four roles, four questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keel
from keel.personas import MapSettings
from keel.pipeline import ExtractInputs, ExtractSettings
from keel.prompts import Library, PromptSettings, Question, Role
from keel.types import Sampling

NAMES = ("ghost", "pirate", "clerk", "nurse")
LIBRARY = Library(
    roles=tuple(Role(n, tuple(f"You are a {n}, way {way}." for way in range(5))) for n in NAMES),
    default_prompts=("", "You are {model_name}."),
    questions=tuple(
        map(Question, ("Who are you?", "What is the sea?", "What do you fear?", "Where to?"))
    ),
)
INPUTS = ExtractInputs(LIBRARY, "the tests")
SETTINGS = ExtractSettings(
    prompts=PromptSettings(prompts_per_question=1),
    sampling=Sampling(max_new_tokens=6, temperature=1.0),
    mapping=MapSettings(min_count=3),
)
ROLLOUTS = 24
"""2 default prompts × 4 questions + 4 roles × 4 questions."""
ROWS = 4
"""Rollouts in a batch, so that a run has 6."""


def open_small(folder: Path) -> Any:
    """The engine of a tiny model's folder, with small batches."""
    engine: Any = keel.open_engine(str(folder), device="cpu", dtype="float32")
    engine.budget = replace(engine.budget, rows=ROWS)
    return engine


def files(run: Path) -> dict[str, bytes]:
    """All files of a run by name, but for the lock's."""
    found = (
        path for path in run.rglob("*") if path.is_file() and not path.name.startswith(".lock")
    )
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in found}


def outcome(run: Path) -> dict[str, bytes]:
    """The same without the manifest, which tells the time."""
    return {name: data for name, data in files(run).items() if name != "manifest.json"}


def stopping_at(count: int, error: BaseException) -> Callable[[str, int, int], None]:
    """Progress that raises once so many answers are done."""

    def tell(stage: str, done: int, total: int) -> None:
        if stage == "answering and recording" and done >= count:
            raise error

    return tell
