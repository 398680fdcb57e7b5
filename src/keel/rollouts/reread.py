"""Reads rollouts that another model answered, recording what this one makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from keel.engines import Engine, Recording, TurnRecord
from keel.rollouts.answer import AnsweredBatch, batch_of
from keel.types import Rollout


def read_rollouts(
    engine: Engine, rollouts: Sequence[Rollout], number: int, *, by_token: bool
) -> AnsweredBatch:
    """A batch of rollouts with this model's activations over the same words.

    A prompt is put into this model's own chat template. `by_token` says that the very tokens are to
    be read: for the model that sampled them. Else the words are cut anew, as this model does, and
    `token_ids` are its own.
    """
    conversations = [
        r.conversation if by_token else r.prompt.conversation.with_reply(r.text) for r in rollouts
    ]
    readings: dict[int, TurnRecord] = {}
    for reading in engine.read(conversations, recording=Recording(means=True)):
        last = sum(m.speaker == "assistant" for m in conversations[reading.index].messages) - 1
        for turn in reading.turns:
            if turn.turn == last:
                readings[reading.index] = turn
    found = [(rollout, readings.get(place)) for place, rollout in enumerate(rollouts)]
    return batch_of(
        number,
        [replace(rollout, token_ids=turn.token_ids if turn else ()) for rollout, turn in found],
        [turn.activations if turn else None for _, turn in found],
    )
