"""Rollouts and their activations, a batch at a time.

A batch is committed when its rollouts are there: its activations are written before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keel.errors import CorruptArtifactError, MissingArtifactError, UsageError
from keel.store.artefacts import read_activations, save_activations
from keel.store.atomic import write_jsonl
from keel.store.layout import activations_file, committed_batches, rollouts_file
from keel.store.reading import read_jsonl, reading
from keel.store.records import from_record
from keel.types import ActivationBatch, Conversation, Message, Prompt, Rollout


def commit_batch(
    root: Path, number: int, rollouts: Sequence[Rollout], activations: ActivationBatch | None
) -> None:
    """Write one batch: whole afterwards, or not counted. Overwrites an earlier attempt."""
    _check_belonging(rollouts, activations)
    path = root / activations_file(number)
    if activations is None:
        _forget(path)
    else:
        save_activations(activations, path)
    write_jsonl(root / rollouts_file(number), (_row(rollout) for rollout in rollouts))


def read_rollouts(root: Path) -> Iterator[Rollout]:
    """Every committed rollout, in the order of batches."""
    for number in committed_batches(root):
        yield from _batch_rollouts(root, number)


def read_activation_batches(root: Path, *, are_whole: bool = True) -> Iterator[ActivationBatch]:
    """Activations of every committed batch that has some, in order.

    `are_whole` says that none were thinned out: activations that are gone are then an error.
    """
    for number in committed_batches(root):
        path = root / activations_file(number)
        if path.exists():
            yield _activations(root, number)
        elif are_whole and any(r.token_ids for r in _batch_rollouts(root, number)):
            raise MissingArtifactError(f"{path} is gone; {_again(root, number)}")


def _batch_rollouts(root: Path, number: int) -> Iterator[Rollout]:
    path = root / rollouts_file(number)
    for row in read_jsonl(path):
        with reading(path, "a batch of rollouts"):
            rollout = _rollout(row)
        yield rollout


def _activations(root: Path, number: int) -> ActivationBatch:
    try:
        return read_activations(root / activations_file(number))
    except CorruptArtifactError as error:
        raise CorruptArtifactError(f"{error}; {_again(root, number)}") from error


def _again(root: Path, number: int) -> str:
    """How to have a batch whose activations are lost answered again: it must not look done."""
    return f"delete {root / rollouts_file(number)} too, and run the extraction again"


def _row(rollout: Rollout) -> dict[str, Any]:
    prompt = rollout.prompt
    row = {
        "id": prompt.id,
        "role": prompt.role,
        "system_index": prompt.system_index,
        "question_index": prompt.question_index,
        "messages": [_message_row(message) for message in prompt.conversation.messages],
        "text": rollout.text,
        "token_ids": list(rollout.token_ids),
        "finish": rollout.finish,
    }
    return row | ({"conversation": prompt.conversation.id} if prompt.conversation.id else {})


def _rollout(row: dict[str, Any]) -> Rollout:
    messages = tuple(from_record(Message, message) for message in row["messages"])
    prompt = Prompt(
        id=row["id"],
        conversation=Conversation(messages, row.get("conversation", "")),
        role=row["role"],
        system_index=row["system_index"],
        question_index=row["question_index"],
    )
    return Rollout(prompt, row["text"], tuple(row["token_ids"]), row["finish"])


def _message_row(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"speaker": message.speaker, "content": message.content}
    if message.token_ids is not None:
        row["token_ids"] = list(message.token_ids)
    return row


def _check_belonging(rollouts: Sequence[Rollout], activations: ActivationBatch | None) -> None:
    ids = [rollout.prompt.id for rollout in rollouts]
    if len(set(ids)) < len(ids):
        raise UsageError(f"two rollouts of one batch share an id among {ids[:4]}…; ids are unique")
    strangers = set(activations.rollout_ids if activations else ()) - set(ids)
    if strangers:
        raise UsageError(
            f"activations of {sorted(strangers)[:4]} belong to no rollout of their batch"
        )


def _forget(path: Path) -> None:
    """Remove activations that an interrupted attempt at the same batch left."""
    path.unlink(missing_ok=True)
