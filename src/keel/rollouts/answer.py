"""Answers prompts in batches, recording while it generates, and reads given answers again.

Knows nothing of run folders.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

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


@dataclass(frozen=True)
class PromptBatch:
    """The prompts of one planned batch."""

    number: int
    prompts: tuple[Prompt, ...]


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
    """Answer the batches whose numbers are not in `done`.

    In the planned order; in the order in which they are completed if the engine batches
    continuously.

    A batch's answers depend on the run's seed, the batch's number and its prompts alone, so a
    resumed run ends like an uninterrupted one. `on_rollout` is called as each answer finishes.

    Means are over the tokens that `spans` names. Where thinking ends is known when an answer does:
    answers with thinking are then read once more, and one cut off before it answered has no mean.
    """
    left = [
        PromptBatch(batch.number, tuple(prompts[index] for index in batch.indices))
        for batch in batches
        if batch.number not in done
    ]
    for group in [left] if rolls(engine, spans) else [[batch] for batch in left]:
        rolling = RollingAnswers(
            engine, group, sampling, seed=seed, spans=spans, on_rollout=on_rollout
        )
        yield from (answered for answered in rolling.run() if answered is not None)


def rolls(engine: Engine, spans: Spans) -> bool:
    """Whether batches are best answered together.

    Then none waits for the last answers of the one before.

    Where answers are read again, a batch that waits for it should not wait for all the others.
    """
    thinks = engine.template_facts().get("thinking", "off") != "off"
    return engine.batches_continuously and not (thinks and spans != "both")


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
            torch.tensor([activation.tokens for _, activation in recorded]),
        )
    return RolloutBatch(number, tuple(rollouts), stacked)


def _last_turns(
    engine: Engine, conversations: Sequence[Conversation], spans: Spans
) -> dict[int, TurnRecord]:
    """What each conversation's last turn is read as, by its index.

    Without those that say nothing in the span.
    """
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


class RollingAnswers:
    """Answers batches in one call of the engine's, and takes more batches while it does."""

    def __init__(
        self,
        engine: Engine,
        batches: Sequence[PromptBatch],
        sampling: Sampling,
        *,
        seed: int,
        spans: Spans,
        on_rollout: Callable[[Rollout], None] = lambda rollout: None,
    ) -> None:
        self._engine, self._sampling = engine, sampling
        self._seed, self._spans, self._on_rollout = seed, spans, on_rollout
        self._partials: list[_PartialBatch] = []
        self._rows = _Rows()
        for batch in batches:
            self.add(batch)

    def add(self, batch: PromptBatch) -> None:
        """Answer this batch, too."""
        partial = _PartialBatch(batch.number, batch.prompts)
        self._partials.append(partial)
        self._rows.add(partial, batch_seed(self._seed, batch.number))

    @property
    def left(self) -> int:
        """Batches that were not answered yet."""
        return len(self._partials)

    @property
    def untaken(self) -> int:
        """Prompts that the engine has not begun."""
        return len(self._rows) - self._rows.taken

    def run(self) -> Iterator[RolloutBatch | None]:
        """For each answer the batch that it completes, or None; ends when nothing is left.

        Batches in which something was thought wait for the end of the call, to be read once more.
        """
        while self._partials:
            seeds = self._rows.seeds
            is_rolling = self._engine.batches_continuously
            completions = self._engine.generate(
                self._rows if is_rolling else list(self._rows),
                self._sampling,
                seed=seeds if is_rolling else seeds[0],
                recording=_MEANS,
            )
            waiting: list[_PartialBatch] = []
            for completion in completions:
                partial, row = self._rows.pop(completion.index)
                self._on_rollout(partial.add(row, completion))
                if not partial.is_full:
                    yield None
                elif partial.must_be_read(self._engine, self._spans):
                    waiting.append(partial)
                else:
                    self._partials.remove(partial)
                    yield partial.answered()
            for partial in waiting:
                partial.read(self._engine, self._spans)
                self._partials.remove(partial)
                yield partial.answered()
            # What came too late for an engine that looks at its prompts once.
            self._rows = _Rows()
            for partial in self._partials:
                self._rows.add(partial, batch_seed(self._seed, partial.number))


class _Rows(Sequence[Prompt]):
    """Prompts of batches one after the other, to which more can be added while they are taken."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.taken = 0
        self._rows: list[tuple[_PartialBatch, int] | None] = []

    def add(self, partial: _PartialBatch, seed: int) -> None:
        """Append a batch's prompts, with the batch's seed for each."""
        self._rows += [(partial, row) for row in range(len(partial.prompts))]
        self.seeds += [seed] * len(partial.prompts)

    def pop(self, index: int) -> tuple[_PartialBatch, int]:
        """The batch and the row in it of an answered prompt, which are kept no longer."""
        row = self._row(index)
        self._rows[index] = None
        return row

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        partial, row = self._row(index)
        return partial.prompts[row]

    def __iter__(self) -> Iterator[Prompt]:
        return _Taking(self)

    def _row(self, index: int) -> tuple[_PartialBatch, int]:
        row = self._rows[index]
        if row is None:
            raise IndexError(f"prompt {index} was answered already")
        return row


class _Taking(Iterator[Prompt]):
    """Iterates over rows; after the last it ends, and goes on when there are more."""

    def __init__(self, rows: _Rows) -> None:
        self._rows, self._index = rows, 0

    def __next__(self) -> Prompt:
        if self._index == len(self._rows):
            raise StopIteration
        prompt: Prompt = self._rows[self._index]
        self._index += 1
        self._rows.taken = max(self._rows.taken, self._index)
        return prompt
