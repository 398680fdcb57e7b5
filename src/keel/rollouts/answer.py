"""Answers prompts batch by batch, recording as it generates. Knows nothing of folders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from keel.engines import Batch, Completion, Engine, Recording
from keel.seeds import seed_of
from keel.types import ActivationBatch, Activations, Prompt, Rollout, Sampling

_MEANS = Recording(means=True)


@dataclass(frozen=True)
class AnsweredBatch:
    """One batch, complete: the unit that is kept or done again."""

    number: int
    rollouts: tuple[Rollout, ...]
    activations: ActivationBatch | None
    """Of the rollouts that have content tokens; None where none has."""


def answer_prompts(
    engine: Engine,
    prompts: Sequence[Prompt],
    batches: Sequence[Batch],
    sampling: Sampling,
    *,
    seed: int,
    done: Collection[int] = (),
    on_rollout: Callable[[Rollout], None] = lambda rollout: None,
) -> Iterator[AnsweredBatch]:
    """Batches without those done before, in the planned order, or as they fill up where the engine
    schedules many at once.

    What a batch answers depends on the run's seed, its number and its prompts alone, so a run
    that was interrupted goes on as if it had not been. `on_rollout` is called as answers finish.
    """
    left = [batch for batch in batches if batch.number not in done]
    if engine.batches_continuously:
        yield from _rolling(engine, prompts, left, sampling, seed, on_rollout)
        return
    for batch in left:
        asked = [prompts[place] for place in batch.indices]
        filling = _Filling(batch.number, asked)
        for completion in engine.generate(
            asked, sampling, seed=batch_seed(seed, batch.number), recording=_MEANS
        ):
            on_rollout(filling.add(completion.index, completion))
        yield filling.answered()


def _rolling(
    engine: Engine,
    prompts: Sequence[Prompt],
    batches: Sequence[Batch],
    sampling: Sampling,
    seed: int,
    on_rollout: Callable[[Rollout], None],
) -> Iterator[AnsweredBatch]:
    """All batches in one call: none waits for the longest answer of the one before it."""
    filling = [_Filling(b.number, [prompts[place] for place in b.indices]) for b in batches]
    homes = [(one, row) for one in filling for row in range(len(one.prompts))]
    seeds = [batch_seed(seed, one.number) for one, _ in homes]
    asked = [one.prompts[row] for one, row in homes]
    for completion in engine.generate(asked, sampling, seed=seeds, recording=_MEANS):
        batch, row = homes[completion.index]
        on_rollout(batch.add(row, completion))
        if batch.is_full:
            yield batch.answered()


class _Filling:
    """A batch whose answers are coming in."""

    def __init__(self, number: int, prompts: Sequence[Prompt]) -> None:
        self.number, self.prompts = number, prompts
        self._found: dict[int, Completion] = {}

    @property
    def is_full(self) -> bool:
        return len(self._found) == len(self.prompts)

    def add(self, row: int, completion: Completion) -> Rollout:
        """Take the answer of a row; its rollout."""
        self._found[row] = completion
        return _rollout(self.prompts[row], completion)

    def answered(self) -> AnsweredBatch:
        """The batch, whose answers are let go. Raises KeyError where one has not come."""
        found = [self._found.pop(row) for row in range(len(self.prompts))]
        rollouts = [_rollout(p, c) for p, c in zip(self.prompts, found, strict=True)]
        return batch_of(self.number, rollouts, [one.activations for one in found])


def batch_seed(run_seed: int, number: int) -> int:
    """A batch's own seed, from the run's seed and the batch's number."""
    return seed_of(run_seed, number)


def _rollout(prompt: Prompt, completion: Completion) -> Rollout:
    return Rollout(prompt, completion.text, completion.token_ids, completion.finish)


def batch_of(
    number: int, rollouts: Sequence[Rollout], activations: Sequence[Activations | None]
) -> AnsweredBatch:
    """Rollouts with their activations stacked, those of an answer without tokens left out."""
    recorded = [
        (rollout.prompt.id, one)
        for rollout, one in zip(rollouts, activations, strict=True)
        if one is not None
    ]
    stacked = None
    if recorded:
        stacked = ActivationBatch(
            tuple(id for id, _ in recorded),
            torch.stack([one.means_LD for _, one in recorded]),
            torch.stack([one.norms_L for _, one in recorded]),
        )
    return AnsweredBatch(number, tuple(rollouts), stacked)
