"""Runs `keel` commands in this process, and what they need to run small."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CPU = ("--device", "cpu", "--dtype", "float32")
SMALL = ("--role-count", "4", "--question-count", "4", "--max-new-tokens", "6", *CPU)
"""36 rollouts: 4 roles × 4 questions, and the default's 5 prompts × 4 questions."""


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, which must be one JSON document and nothing else."""
        assert self.code == 0, self.err
        return json.loads(self.out, parse_constant=lambda word: f"{word} is no JSON")


def talk(path: Path, *said: tuple[str, str], **more: str) -> Path:
    """A transcript of (role, content)s."""
    messages = [{"role": role, "content": content} for role, content in said]
    path.write_text(json.dumps({"messages": messages, **more}), encoding="utf-8")
    return path


def contents(place: Path) -> dict[str, bytes]:
    """Every file below a folder, but for those of locks."""
    found = (p for p in place.rglob("*") if p.is_file() and not p.name.startswith(".lock"))
    return {p.relative_to(place).as_posix(): p.read_bytes() for p in found}
