"""Transcript files that a command takes, and what it says of what could not be read in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keel.cli import console

if TYPE_CHECKING:
    from keel.drift import Transcripts
    from keel.types import Conversation

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="Transcripts in any form of docs/transcripts.md."),
]
SkipUnreadable = Annotated[
    bool,
    typer.Option("--skip-unreadable", help="Go on without conversations that cannot be read."),
]


def check_run_first(command: str, run: Path, files: Sequence[str | Path]) -> None:
    """Raises UsageError with the line that works, where a run stands behind what is none."""
    from keel.errors import UsageError

    swapped = next((file for file in files if (Path(file) / "plan.json").is_file()), None)
    if swapped is not None and run.is_file():
        raise UsageError(
            f"{swapped} is a run, expected a transcript; the run comes first: {command} {swapped} "
            f"{run}"
        )


def transcripts_of(
    files: Sequence[Path], *, skip_unreadable: bool, are_answered: bool = True
) -> Transcripts:
    """What stands in the files; what was left out of them is said on stderr.

    With `are_answered`, what has no answer is skipped with the rest. Raises as
    `keel.drift.read_transcripts`.
    """
    from keel.drift import read_transcripts

    transcripts = read_transcripts(files, skip_unreadable=skip_unreadable)
    lines = list(transcripts.summary())
    if are_answered and skip_unreadable:
        pairs = zip(transcripts.conversations, transcripts.domains, strict=True)
        answered = [
            pair for pair in pairs if any(m.speaker == "assistant" for m in pair[0].messages)
        ]
        count = len(transcripts.conversations) - len(answered)
        lines += [f"{count} without an answer and skipped"] if count else []
        if answered:
            conversations, domains = zip(*answered, strict=True)
            transcripts = replace(transcripts, conversations=conversations, domains=domains)
    for line in lines:
        console.stderr.print(line, markup=False, soft_wrap=True)
    return transcripts


def conversations_of(
    files: Sequence[Path], *, skip_unreadable: bool, are_answered: bool = True
) -> list[Conversation]:
    """The conversations of the files, as `transcripts_of` reads them."""
    transcripts = transcripts_of(files, skip_unreadable=skip_unreadable, are_answered=are_answered)
    return list(transcripts.conversations)
