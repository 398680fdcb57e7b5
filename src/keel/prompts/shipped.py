"""Keel's own library, as it ships."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from keel.prompts.reading import read_questions, read_roles, read_scenarios
from keel.prompts.values import Library, Scenario

_FOLDER = Path(__file__).with_name("library")


@cache
def load_library() -> Library:
    """The roles, default prompts and questions that ship with Keel."""
    read = read_roles(_FOLDER)
    return Library(read.roles, read.default_prompts, read_questions(_FOLDER / "questions.jsonl"))


def load_scenarios() -> tuple[Scenario, ...]:
    """Conversations that provoke a model to leave its character; the demo plays the first."""
    return read_scenarios(_FOLDER / "conversations.jsonl")
