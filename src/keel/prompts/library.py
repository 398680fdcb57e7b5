"""Keel's own library, as it ships."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

from keel.prompts.reading import read_questions, read_roles
from keel.prompts.values import Library, Scenario

_FOLDER = Path(str(files("keel.prompts") / "library"))


@cache
def load_library() -> Library:
    """The roles, default prompts and questions that ship with Keel."""
    read = read_roles(_FOLDER)
    return Library(read.roles, read.default_prompts, read_questions(_FOLDER / "questions.jsonl"))


def load_scenarios() -> tuple[Scenario, ...]:
    """Conversations that provoke a model to leave its character; the demo plays the first."""
    lines = (_FOLDER / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return tuple(Scenario(r["id"], r["title"], r["system"], tuple(r["turns"])) for r in rows)
