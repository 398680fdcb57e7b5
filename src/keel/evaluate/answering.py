"""Whoever answers the items: an engine of Keel's, or a model behind an address.

Knows nothing of items, folders or judges: conversations go in, replies come out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from keel.engines import Completion, Engine, Probe, Recording
from keel.errors import NotFiniteError
from keel.evaluate.arms import Arm
from keel.steering import Firing
from keel.types import AssistantAxis, Conversation, ModelIdentity, Prompt, Sampling


@dataclass(frozen=True)
class Reply:
    """One answer to one conversation."""

    text: str
    tokens: int
    """Content tokens sampled."""
    finish: Literal["stop", "length"]
    token_ids: tuple[int, ...] | None = None
    """The tokens sampled, where they are known."""
    projection: float | None = None
    """Mean over the answer's tokens at the axis' layer, raw."""


@dataclass(frozen=True)
class Replies:
    """One batch, answered."""

    replies: tuple[Reply, ...]
    """In the order of the conversations."""
    firing: Firing | None = None
    """How often tokens were moved; None where nothing could be."""


@runtime_checkable
class Answerer(Protocol):
    """Answers conversations under an arm, the same draws under each."""

    @property
    def identity(self) -> ModelIdentity:
        """The model that answers."""

    def fingerprint(self, arm: Arm) -> str:
        """All that the arm does here, as one text: other answers if it changes.

        Raises UsageError for an arm that cannot be had here.
        """

    def plan(
        self, conversations: Sequence[Conversation], sampling: Sampling
    ) -> tuple[tuple[int, ...], ...]:
        """Places of the conversations, in batches that fit. The same call plans the same."""

    def answer(
        self,
        conversations: Sequence[Conversation],
        arm: Arm,
        sampling: Sampling,
        *,
        seed: int,
        on_reply: Callable[[], None] = lambda: None,
    ) -> Replies:
        """Answer one batch; `on_reply` is called as each answer is done.

        Raises NotAppliedError where the arm's interventions were ignored.
        """

    def perplexities(self, conversations: Sequence[Conversation]) -> list[float | None]:
        """Of each last answer under the unsteered model; None where it has no words, or where
        the model cannot be read."""


@dataclass(frozen=True)
class EngineAnswerer:
    """An engine, with the axis on which its answers are placed."""

    engine: Engine
    axis: AssistantAxis | None = None
    """None places no answer."""

    @property
    def identity(self) -> ModelIdentity:
        """The model that answers."""
        return self.engine.identity

    def fingerprint(self, arm: Arm) -> str:
        """The arm's own."""
        return arm.fingerprint

    def plan(
        self, conversations: Sequence[Conversation], sampling: Sampling
    ) -> tuple[tuple[int, ...], ...]:
        """The engine's plan."""
        return tuple(batch.indices for batch in self.engine.plan(_prompts(conversations), sampling))

    def answer(
        self,
        conversations: Sequence[Conversation],
        arm: Arm,
        sampling: Sampling,
        *,
        seed: int,
        on_reply: Callable[[], None] = lambda: None,
    ) -> Replies:
        """Answer one batch in one call of the engine, recording as it generates."""
        found: dict[int, Reply] = {}
        completions = self.engine.generate(
            _prompts([arm.change(one) for one in conversations]),
            sampling,
            seed=seed,
            recording=self._recording,
            interventions=arm.interventions,
        )
        for completion in completions:
            found[completion.index] = _reply(completion)
            on_reply()
        replies = tuple(found[place] for place in range(len(conversations)))
        return Replies(replies, completions.firing if arm.has_bound else None)

    def perplexities(self, conversations: Sequence[Conversation]) -> list[float | None]:
        """Exponential of minus the mean log-likelihood of each last answer's tokens."""
        found: list[float | None] = [None] * len(conversations)
        worded = [n for n, one in enumerate(conversations) if _has_words(one)]
        for reading in self.engine.read(
            [conversations[n] for n in worded], recording=Recording(log_likelihood=True)
        ):
            scores_T = reading.turns[-1].log_likelihood_T
            assert scores_T is not None, "the engine did not record what was asked for"
            found[worded[reading.index]] = math.exp(-float(scores_T.double().mean()))
        return found

    @property
    def _recording(self) -> Recording:
        if self.axis is None:
            return Recording()
        layer = self.axis.layer
        return Recording(probes=(Probe(layer, self.axis.direction[layer]),))


def _prompts(conversations: Sequence[Conversation]) -> list[Prompt]:
    return [Prompt(str(place), one) for place, one in enumerate(conversations)]


def _reply(completion: Completion) -> Reply:
    projection = None
    if completion.projections_TK is not None and len(completion.projections_TK):
        projection = float(completion.projections_TK[:, 0].double().mean())
        if not math.isfinite(projection):
            raise NotFiniteError(
                f"an answer projects to {projection}, expected a number; load the model in "
                "float32 or bfloat16"
            )
    ids = completion.token_ids
    return Reply(completion.text, len(ids), completion.finish, ids, projection)


def _has_words(conversation: Conversation) -> bool:
    last = conversation.messages[-1]
    return bool(last.content if last.token_ids is None else last.token_ids)
