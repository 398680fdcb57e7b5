"""Rollouts and their activations, a batch at a time.

A batch is committed when its rollouts are there: its activations are written before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keel.errors import UsageError
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
        path = root / rollouts_file(number)
        for row in read_jsonl(path):
            with reading(path, "a batch of rollouts"):
                rollout = _rollout(row)
            yield rollout


def read_activation_batches(root: Path) -> Iterator[ActivationBatch]:
    """Activations of every committed batch that has some, in order."""
    for number in committed_batches(root):
        path = root / activations_file(number)
        if path.exists():
            yield read_activations(path)


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
