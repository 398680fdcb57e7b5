"""Answers prompts in batches, recording while it generates, and reads given answers again.

Knows nothing of run folders.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from keel.engines import Batch, Completion, Engine, Recording, TurnRecord
from keel.seeds import seed_of
from keel.types import ActivationBatch, Activations, Prompt, Rollout, Sampling

_MEANS = Recording(means=True)


@dataclass(frozen=True)
class RolloutBatch:
    """One complete batch of rollouts: the unit that is stored, or answered again."""

    number: int
    rollouts: tuple[Rollout, ...]
    activations: ActivationBatch | None
    """Of the rollouts that have content tokens; None if none has."""


def answer_prompts(
    engine: Engine,
    prompts: Sequence[Prompt],
    batches: Sequence[Batch],
    sampling: Sampling,
    *,
    seed: int,
    done: Collection[int] = (),
    on_rollout: Callable[[Rollout], None] = lambda rollout: None,
) -> Iterator[RolloutBatch]:
    """Answer the batches whose numbers are not in `done`, in the planned order; in the order in
    which they are completed if the engine batches continuously.

    A batch's answers depend on the run's seed, the batch's number and its prompts alone, so a
    resumed run ends like an uninterrupted one. `on_rollout` is called as each answer finishes.
    """
    left = [batch for batch in batches if batch.number not in done]
    if engine.batches_continuously:
        yield from _answer_continuously(engine, prompts, left, sampling, seed, on_rollout)
        return
    for batch in left:
        partial = _PartialBatch(batch.number, [prompts[index] for index in batch.indices])
        for completion in engine.generate(
            partial.prompts, sampling, seed=batch_seed(seed, batch.number), recording=_MEANS
        ):
            on_rollout(partial.add(completion.index, completion))
        yield partial.answered()


def read_rollouts(
    engine: Engine, rollouts: Sequence[Rollout], number: int, *, by_token: bool
) -> RolloutBatch:
    """A batch of another model's rollouts with this model's activations over the same text.

    Each prompt is rendered with this model's chat template. With `by_token` the sampled tokens
    themselves are read, which is right for the model that sampled them; otherwise the text is
    tokenised anew, and the rollouts returned carry this model's `token_ids`.
    """
    conversations = [
        r.conversation if by_token else r.prompt.conversation.with_reply(r.text) for r in rollouts
    ]
    last_turns: dict[int, TurnRecord] = {}
    for reading in engine.read(conversations, recording=_MEANS):
        last = sum(m.speaker == "assistant" for m in conversations[reading.index].messages) - 1
        for turn in reading.turns:
            if turn.turn == last:
                last_turns[reading.index] = turn
    turns = [last_turns.get(index) for index in range(len(rollouts))]
    return batch_of(
        number,
        [
            replace(rollout, token_ids=turn.token_ids if turn else ())
            for rollout, turn in zip(rollouts, turns, strict=True)
        ],
        [turn.activations if turn else None for turn in turns],
    )


def batch_seed(run_seed: int, number: int) -> int:
    """A batch's own seed, from the run's seed and the batch's number."""
    return seed_of(run_seed, number)


def batch_of(
    number: int, rollouts: Sequence[Rollout], activations: Sequence[Activations | None]
) -> RolloutBatch:
    """Rollouts with their activations stacked; answers without tokens have none."""
    recorded = [
        (rollout.prompt.id, activation)
        for rollout, activation in zip(rollouts, activations, strict=True)
        if activation is not None
    ]
    stacked = None
    if recorded:
        stacked = ActivationBatch(
            tuple(id for id, _ in recorded),
            torch.stack([activation.means_LD for _, activation in recorded]),
            torch.stack([activation.norms_L for _, activation in recorded]),
        )
    return RolloutBatch(number, tuple(rollouts), stacked)


def _answer_continuously(
    engine: Engine,
    prompts: Sequence[Prompt],
    batches: Sequence[Batch],
    sampling: Sampling,
    seed: int,
    on_rollout: Callable[[Rollout], None],
) -> Iterator[RolloutBatch]:
    """All batches in one call: none waits for the longest answer of the one before it."""
    partials = [_PartialBatch(b.number, [prompts[index] for index in b.indices]) for b in batches]
    rows = [(partial, row) for partial in partials for row in range(len(partial.prompts))]
    completions = engine.generate(
        [partial.prompts[row] for partial, row in rows],
        sampling,
        seed=[batch_seed(seed, partial.number) for partial, _ in rows],
        recording=_MEANS,
    )
    for completion in completions:
        partial, row = rows[completion.index]
        on_rollout(partial.add(row, completion))
        if partial.is_full:
            yield partial.answered()


class _PartialBatch:
    """A batch whose answers are coming in."""

    def __init__(self, number: int, prompts: Sequence[Prompt]) -> None:
        self.number, self.prompts = number, prompts
        self._completions: dict[int, Completion] = {}

    @property
    def is_full(self) -> bool:
        return len(self._completions) == len(self.prompts)

    def add(self, row: int, completion: Completion) -> Rollout:
        """Keep the answer of a row; its rollout."""
        self._completions[row] = completion
        return self._rollout(row, completion)

    def answered(self) -> RolloutBatch:
        """The complete batch; its completions are released. Raises KeyError if one is missing."""
        completions = [self._completions.pop(row) for row in range(len(self.prompts))]
        rollouts = [self._rollout(row, done) for row, done in enumerate(completions)]
        return batch_of(self.number, rollouts, [done.activations for done in completions])

    def _rollout(self, row: int, completion: Completion) -> Rollout:
        return Rollout(self.prompts[row], completion.text, completion.token_ids, completion.finish)
