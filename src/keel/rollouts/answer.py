"""Answers prompts batch by batch, recording as it generates. Knows nothing of folders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from keel.engines import Batch, Completion, Engine, Recording
from keel.types import ActivationBatch, Activations, Prompt, Rollout, Sampling


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
    """Batches in the planned order, without those done before.

    What a batch answers depends on the run's seed, its number and its prompts alone, so a run
    that was interrupted goes on as if it had not been. `on_rollout` is called as answers finish.
    """
    for batch in batches:
        if batch.number in done:
            continue
        asked = [prompts[place] for place in batch.places]
        completions: dict[int, Completion] = {}
        for completion in engine.generate(
            asked,
            sampling,
            seed=batch_seed(seed, batch.number),
            recording=Recording(means=True),
        ):
            completions[completion.place] = completion
            on_rollout(_rollout(asked[completion.place], completion))
        yield _answered(batch.number, asked, [completions[n] for n in range(len(asked))])


def batch_seed(run_seed: int, number: int) -> int:
    """A batch's own seed, from the run's seed and the batch's number."""
    digest = hashlib.sha256(f"{run_seed}:{number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _rollout(prompt: Prompt, completion: Completion) -> Rollout:
    return Rollout(prompt, completion.text, completion.token_ids, completion.finish)


def _answered(
    number: int, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> AnsweredBatch:
    rollouts = [_rollout(p, c) for p, c in zip(prompts, completions, strict=True)]
    return batch_of(number, rollouts, [completion.activations for completion in completions])


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
