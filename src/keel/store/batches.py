"""Rollouts and their activations, a batch at a time.

A batch is committed when its rollouts are there: its activations are written before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from keel.errors import CorruptArtifactError, MissingArtifactError, UsageError
from keel.store.artefacts import read_activations, save_activations
from keel.store.journal import Batches
from keel.store.layout import ROLLOUTS, activations_file
from keel.store.provenance import Kept
from keel.store.records import to_record
from keel.types import ActivationBatch, Conversation, Message, Prompt, Rollout

SAMPLE = 1000
"""About how many rollouts a sample of the activations holds."""


def commit_batch(
    root: Path, number: int, rollouts: Sequence[Rollout], activations: ActivationBatch | None
) -> None:
    """Write one batch: whole afterwards, or not counted. Overwrites an earlier attempt."""
    _check_belonging(rollouts, activations)
    path = root / activations_file(number)
    if activations is None:
        path.unlink(missing_ok=True)  # an interrupted attempt at the same batch may have left some
    else:
        save_activations(activations, path)
    rollout_batches(root).write(number, map(_row, rollouts))


def rollout_batches(root: Path) -> Batches[Row]:
    """The run's files of rollouts."""
    return Batches(root / ROLLOUTS, Row)


def read_rollouts(root: Path) -> Iterator[Rollout]:
    """Every committed rollout, in the order of batches."""
    return (row.rollout for row in rollout_batches(root).read())


def read_activation_batches(root: Path, *, are_whole: bool = True) -> Iterator[ActivationBatch]:
    """Activations of every committed batch that has some, in order.

    `are_whole` says that none were thinned out: activations that are gone are then an error.
    """
    batches = rollout_batches(root)
    for number in batches.committed():
        path = root / activations_file(number)
        # A batch whose activations are lost must not look done, if it is to be answered again.
        again = f"delete {batches.path(number)} too, and run the extraction again"
        if path.exists():
            try:
                activations = read_activations(path)
            except CorruptArtifactError as error:
                raise CorruptArtifactError(f"{error}; {again}") from error
            yield activations
        elif are_whole and any(row.token_ids for row in batches.read_batch(number)):
            raise MissingArtifactError(f"{path} is gone; {again}")


def thin_activations(root: Path, keep: Kept) -> None:
    """Delete the activations of all rollouts but a sample, or of all.

    A sample is every k-th rollout, so all lengths and roles. The choice depends on the rollouts
    alone: done again after a kill, it keeps the same ones.
    """
    batches = rollout_batches(root)
    ids = [row.id for row in batches.read()] if keep == "sample" else []
    kept = set(ids[:: -(-len(ids) // SAMPLE) or 1])
    for number in batches.committed():
        path = root / activations_file(number)
        if path.exists():
            _thin_file(path, kept)


@dataclass(frozen=True)
class Row:
    """A rollout as one line of a file."""

    id: str
    role: str
    system_index: int
    question_index: int
    messages: tuple[Message, ...]
    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]
    conversation: str = ""

    @property
    def rollout(self) -> Rollout:
        """The rollout that the line describes."""
        conversation = Conversation(self.messages, self.conversation)
        prompt = Prompt(self.id, conversation, self.role, self.system_index, self.question_index)
        return Rollout(prompt, self.text, self.token_ids, self.finish)


def _row(rollout: Rollout) -> dict[str, Any]:
    """The line of a rollout, without what is empty."""
    prompt = rollout.prompt
    row = Row(
        prompt.id,
        prompt.role,
        prompt.system_index,
        prompt.question_index,
        prompt.conversation.messages,
        rollout.text,
        rollout.token_ids,
        rollout.finish,
        prompt.conversation.id,
    )
    record = to_record(row)
    if not row.conversation:
        del record["conversation"]
    for message in record["messages"]:
        if message["token_ids"] is None:
            del message["token_ids"]
    return dict(record)


def _check_belonging(rollouts: Sequence[Rollout], activations: ActivationBatch | None) -> None:
    ids = [rollout.prompt.id for rollout in rollouts]
    if len(set(ids)) < len(ids):
        raise UsageError(f"two rollouts of one batch share an id among {ids[:4]}…; ids are unique")
    strangers = set(activations.rollout_ids if activations else ()) - set(ids)
    if strangers:
        raise UsageError(
            f"activations of {sorted(strangers)[:4]} belong to no rollout of their batch"
        )


def _thin_file(path: Path, kept: set[str]) -> None:
    batch = read_activations(path) if kept else None
    chosen = [n for n, name in enumerate(batch.rollout_ids) if name in kept] if batch else []
    if batch is None or not chosen:
        path.unlink()
        return
    rows = torch.tensor(chosen)
    ids = tuple(batch.rollout_ids[n] for n in chosen)
    save_activations(ActivationBatch(ids, batch.means_BLD[rows], batch.norms_BL[rows]), path)
