"""Records that are kept while work goes on, so that it can go on after an interruption.

A journal is one file of lines, added to: rewriting a file of a hundred thousand judgements after
every few would take longer than judging. A line torn by a kill is not counted, and cut off by the
next writer. Batches are one file each, written whole: a batch counts when its file is there. A
batch of rollouts is committed when its rollouts are there: its activations are written before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from keel.arrays import torch
from keel.errors import CorruptArtifactError, MissingArtifactError, UsageError
from keel.store.artefacts import read_activations, save_activations
from keel.store.files import append_lines, jsonl, read_jsonl, reading, write_jsonl
from keel.store.layout import (
    ACTIVATIONS,
    ALARM_WORK,
    REPLAY_WORK,
    ROLLOUTS,
    files_ending,
    plain_name,
)
from keel.store.provenance import Kept
from keel.store.records import from_record, to_record
from keel.types import ActivationBatch, Rollout

T = TypeVar("T")

SAMPLE = 1000
"""About how many rollouts a sample of the activations holds."""


def append_journal(path: Path, values: Iterable[Any]) -> None:
    """Add values at the end of a journal, one per line, and flush them to the disk."""
    append_lines(path, jsonl(map(to_record, values)))


def read_journal(path: Path, kind: type[T]) -> list[T]:
    """The values in the order in which they were added; none where there is no file."""
    if not path.exists():
        return []
    with reading(path, f"{kind.__name__}, one per line"):
        lines = path.read_bytes().splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return records if kind is dict else [from_record(kind, record) for record in records]


class JournalFolder:
    """What a stage goes on with after an interruption; no part of the run.

    FOLDER/NAME.jsonl   values of one piece of work, added to as they are made
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_alarm(cls, run: Path) -> JournalFolder:
        """What an alarm was calibrated on so far."""
        return cls(run / ALARM_WORK)

    @classmethod
    def of_replays(cls, run: Path) -> JournalFolder:
        """What replays answered so far."""
        return cls(run / REPLAY_WORK)

    def values(self, name: str, kind: type[T]) -> list[T]:
        """What was kept under a name. A line torn by a kill is not counted."""
        return read_journal(self.path / f"{plain_name(name)}.jsonl", kind)

    def append(self, name: str, values: Iterable[Any]) -> None:
        """Add values to those under a name."""
        append_journal(self.path / f"{plain_name(name)}.jsonl", values)


def batch_path(folder: Path, number: int, name: str = "batch", suffix: str = ".jsonl") -> Path:
    """Where a batch is: `FOLDER/NAME-00000.jsonl`, a record per line."""
    return folder / f"{name}-{number:05d}{suffix}"


def committed_batches(folder: Path, name: str = "batch") -> list[int]:
    """Numbers of the batches that are there, in order."""
    pattern = re.compile(rf"{name}-(\d{{5,}})")
    matches = (pattern.fullmatch(path.stem) for path in files_ending(folder, ".jsonl"))
    return sorted(int(match[1]) for match in matches if match)


def read_batches(folder: Path, kind: type[T], name: str = "batch") -> Iterator[T]:
    """Every committed value, in the order of batches."""
    for number in committed_batches(folder, name):
        yield from _read_lines(batch_path(folder, number, name), partial(from_record, kind))


def commit_batch(
    root: Path, number: int, rollouts: Sequence[Rollout], activations: ActivationBatch | None
) -> None:
    """Write one batch: whole afterwards, or not counted. Overwrites an earlier attempt."""
    ids = [rollout.prompt.id for rollout in rollouts]
    if len(set(ids)) < len(ids):
        raise UsageError(f"two rollouts of one batch share an id among {ids[:4]}…; ids are unique")
    strangers = set(activations.rollout_ids if activations else ()) - set(ids)
    if strangers:
        raise UsageError(
            f"activations of {sorted(strangers)[:4]} belong to no rollout of their batch"
        )
    path = _activations_path(root, number)
    if activations is None and any(rollout.token_ids for rollout in rollouts):
        # Answers of which nothing was to be recorded; without a file they would look lost.
        activations = ActivationBatch((), torch.zeros(0, 0, 0), torch.zeros(0, 0))
    if activations is None:
        path.unlink(missing_ok=True)  # an interrupted attempt at the same batch may have left some
    else:
        save_activations(activations, path)
    write_jsonl(batch_path(root / ROLLOUTS, number), map(_row, rollouts))


def read_rollouts(root: Path) -> Iterator[Rollout]:
    """Every committed rollout, in the order of batches."""
    for number in committed_batches(root / ROLLOUTS):
        yield from _read_lines(batch_path(root / ROLLOUTS, number), _rollout)


def read_activation_batches(root: Path, *, are_whole: bool = True) -> Iterator[ActivationBatch]:
    """Activations of every committed batch that has some, in order.

    `are_whole` says that none were thinned out: activations that are gone are then an error.
    """
    for number in committed_batches(root / ROLLOUTS):
        path, rollouts = _activations_path(root, number), batch_path(root / ROLLOUTS, number)
        # A batch whose activations are lost must not look done, if it is to be answered again.
        again = f"delete {rollouts} too, and run the extraction again"
        if path.exists():
            try:
                activations = read_activations(path)
            except CorruptArtifactError as error:
                raise CorruptArtifactError(f"{error}; {again}") from error
            if activations.rollout_ids:
                yield activations
        elif are_whole and any(rollout.token_ids for rollout in _read_lines(rollouts, _rollout)):
            raise MissingArtifactError(f"{path} is gone; {again}")


def thin_activations(root: Path, keep: Kept) -> None:
    """Delete the activations of all rollouts but a sample, or of all.

    A sample is every k-th rollout, so all lengths and roles. The choice depends on the rollouts
    alone: done again after a kill, it keeps the same ones.
    """
    ids = [rollout.prompt.id for rollout in read_rollouts(root)] if keep == "sample" else []
    kept = set(ids[:: -(-len(ids) // SAMPLE) or 1])
    for number in committed_batches(root / ROLLOUTS):
        path = _activations_path(root, number)
        if not path.exists():
            continue
        batch = read_activations(path) if kept else None
        names = batch.rollout_ids if batch else ()
        chosen = [row for row, name in enumerate(names) if name in kept]
        if batch is None or not chosen:
            path.unlink()
            continue
        rows, ids_left = torch.tensor(chosen), tuple(names[row] for row in chosen)
        tokens_B = None if batch.tokens_B is None else batch.tokens_B[rows]
        save_activations(
            ActivationBatch(ids_left, batch.means_BLD[rows], batch.norms_BL[rows], tokens_B), path
        )


def _activations_path(root: Path, number: int) -> Path:
    return batch_path(root / ACTIVATIONS, number, suffix=".safetensors")


def _read_lines(path: Path, parse: Callable[[Any], T]) -> Iterator[T]:
    for record in read_jsonl(path):
        with reading(path, "one record per line"):
            value = parse(record)
        yield value


def _row(rollout: Rollout) -> dict[str, Any]:
    """The line of a rollout: prompt and conversation are no objects in it, empty parts left out."""
    record = to_record(rollout)
    prompt = record.pop("prompt")
    conversation = prompt.pop("conversation")
    for message in conversation["messages"]:
        if message["token_ids"] is None:
            del message["token_ids"]
    row = {**prompt, "messages": conversation["messages"], **record}
    return {**row, "conversation": conversation["id"]} if conversation["id"] else row


def _rollout(row: dict[str, Any]) -> Rollout:
    """The rollout that a line describes."""
    conversation = {"messages": row.pop("messages"), "id": row.pop("conversation", "")}
    keys = ("id", "role", "system_index", "question_index")
    prompt = {"conversation": conversation, **{key: row.pop(key) for key in keys}}
    return from_record(Rollout, {"prompt": prompt, **row})
