"""Answers prompts in batches, recording while it generates, and reads given answers again.

Knows nothing of run folders.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from keel.engines import Batch, Completion, Engine, Recording, TurnRecord
from keel.seeds import seed_of
from keel.settings import Spans
from keel.types import ActivationBatch, Activations, Conversation, Prompt, Rollout, Sampling

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
    spans: Spans = "answer",
    done: Collection[int] = (),
    on_rollout: Callable[[Rollout], None] = lambda rollout: None,
) -> Iterator[RolloutBatch]:
    """Answer the batches whose numbers are not in `done`, in the planned order; in the order in
    which they are completed if the engine batches continuously.

    A batch's answers depend on the run's seed, the batch's number and its prompts alone, so a
    resumed run ends like an uninterrupted one. `on_rollout` is called as each answer finishes.

    Means are over the tokens that `spans` names. Where thinking ends is known when an answer does:
    answers with thinking are then read once more, and one cut off before it answered has no mean.
    """
    left = [batch for batch in batches if batch.number not in done]
    thinks = engine.template_facts().get("thinking", "off") != "off"
    # Where answers are read again, a batch that waits for it should not wait for all the others.
    is_at_once = engine.batches_continuously and not (thinks and spans != "both")
    for group in [left] if is_at_once else [[batch] for batch in left]:
        yield from _answer_together(engine, prompts, group, sampling, seed, spans, on_rollout)


def read_rollouts(
    engine: Engine,
    rollouts: Sequence[Rollout],
    number: int,
    *,
    by_token: bool,
    spans: Spans = "answer",
) -> RolloutBatch:
    """A batch of another model's rollouts with this model's activations over the same text.

    Each prompt is rendered with this model's chat template. With `by_token` the sampled tokens
    themselves are read, which is right for the model that sampled them; otherwise the text is
    tokenised anew, and the rollouts returned carry this model's `token_ids`. Means are over the
    tokens that `spans` names.
    """
    conversations = [
        r.conversation if by_token else r.prompt.conversation.with_reply(r.text) for r in rollouts
    ]
    last_turns = _last_turns(engine, conversations, spans)
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


def _answer_together(
    engine: Engine,
    prompts: Sequence[Prompt],
    batches: Sequence[Batch],
    sampling: Sampling,
    seed: int,
    spans: Spans,
    on_rollout: Callable[[Rollout], None],
) -> Iterator[RolloutBatch]:
    """Batches in one call: none waits for the longest answer of the one before it, but those in
    which something was thought wait for the end of the call, to be read once more."""
    partials = [_PartialBatch(b.number, [prompts[index] for index in b.indices]) for b in batches]
    rows = [(partial, row) for partial in partials for row in range(len(partial.prompts))]
    seeds = [batch_seed(seed, partial.number) for partial, _ in rows]
    completions = engine.generate(
        [partial.prompts[row] for partial, row in rows],
        sampling,
        seed=seeds if engine.batches_continuously else seeds[0],
        recording=_MEANS,
    )
    waiting: list[_PartialBatch] = []
    for completion in completions:
        partial, row = rows[completion.index]
        on_rollout(partial.add(row, completion))
        if partial.is_full:
            if partial.must_be_read(engine, spans):
                waiting.append(partial)
            else:
                yield partial.answered()
    for partial in waiting:
        partial.read(engine, spans)
        yield partial.answered()


def _last_turns(
    engine: Engine, conversations: Sequence[Conversation], spans: Spans
) -> dict[int, TurnRecord]:
    """What each conversation's last turn is read as, by its index; without those that say nothing
    in the span."""
    last_turns: dict[int, TurnRecord] = {}
    for reading in engine.read(conversations, recording=replace(_MEANS, spans=spans)):
        last = sum(m.speaker == "assistant" for m in conversations[reading.index].messages) - 1
        for turn in reading.turns:
            if turn.turn == last:
                last_turns[reading.index] = turn
    return last_turns


class _PartialBatch:
    """A batch whose answers are coming in."""

    def __init__(self, number: int, prompts: Sequence[Prompt]) -> None:
        self.number, self.prompts = number, prompts
        self._rollouts: dict[int, Rollout] = {}
        self._activations: dict[int, Activations | None] = {}

    @property
    def is_full(self) -> bool:
        return len(self._rollouts) == len(self.prompts)

    def add(self, row: int, completion: Completion) -> Rollout:
        """Keep the answer of a row; its rollout."""
        rollout = Rollout(
            self.prompts[row], completion.text, completion.token_ids, completion.finish
        )
        self._rollouts[row], self._activations[row] = rollout, completion.activations
        return rollout

    def must_be_read(self, engine: Engine, spans: Spans) -> bool:
        """Whether means of whole answers are not those of the span."""
        return spans == "thinking" or (spans == "answer" and bool(self._thoughtful(engine)))

    def read(self, engine: Engine, spans: Spans) -> None:
        """Put means over the span in the stead of those of whole answers."""
        thoughtful = self._thoughtful(engine)
        turns = _last_turns(engine, [self._rollouts[row].conversation for row in thoughtful], spans)
        read = {row: turns.get(index) for index, row in enumerate(thoughtful)}
        for row in self._rollouts if spans == "thinking" else thoughtful:
            turn = read.get(row)
            self._activations[row] = turn.activations if turn is not None else None

    def answered(self) -> RolloutBatch:
        """The complete batch. Raises KeyError if an answer is missing."""
        rows = range(len(self.prompts))
        return batch_of(
            self.number,
            [self._rollouts[row] for row in rows],
            [self._activations.pop(row) for row in rows],
        )

    def _thoughtful(self, engine: Engine) -> list[int]:
        """Rows of answers that begin with thinking."""
        starts = engine.template.answer_start
        return [row for row, rollout in self._rollouts.items() if starts(rollout.token_ids)]
