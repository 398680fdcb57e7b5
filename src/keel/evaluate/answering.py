"""What answers the items: an engine of Keel's, or a model behind an address.

Knows nothing of items, folders or judges: conversations go in, answers come out.
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

Batches = tuple[tuple[int, ...], ...]
"""Indices of what is answered together."""


@dataclass(frozen=True)
class Answer:
    """One answer to one conversation."""

    text: str
    tokens: int
    """Content tokens sampled; 0 where texts were scored and none written."""
    finish: Literal["stop", "length"]
    token_ids: tuple[int, ...] | None = None
    """The tokens sampled, where they are known."""
    projection: float | None = None
    """Mean over the answer's tokens at the axis' layer, raw."""


@dataclass(frozen=True)
class AnsweredBatch:
    """The answers to one batch, in the order of its conversations."""

    answers: tuple[Answer, ...]
    firing: Firing | None = None
    """How often tokens were moved; None where the arm has no bound."""


@runtime_checkable
class Answerer(Protocol):
    """Answers conversations under an arm; a seed gives the same random draws in every arm."""

    @property
    def identity(self) -> ModelIdentity:
        """The model that answers."""

    @property
    def can_be_timed(self) -> bool:
        """Whether a short batch may be answered to measure how long it takes."""
        return True

    def fingerprint(self, arm: Arm) -> str:
        """A text that changes whenever the arm's answers here may change; by default the arm's own.

        Raises UsageError for an arm that is not available here.
        """
        return arm.fingerprint

    def plan(self, conversations: Sequence[Conversation], sampling: Sampling) -> Batches:
        """Indices of the conversations in batches that fit in memory, the same for each call."""

    def answer(
        self,
        conversations: Sequence[Conversation],
        arm: Arm,
        sampling: Sampling,
        *,
        seed: int,
        on_answer: Callable[[], None] = lambda: None,
    ) -> AnsweredBatch:
        """Answer one batch; `on_answer` may be called as each answer is done.

        The `id` of a conversation is its item's. Raises NotAppliedError where the arm's
        interventions were ignored.
        """

    def perplexities(self, conversations: Sequence[Conversation]) -> list[float | None]:
        """Perplexity of each last answer under the unsteered model.

        None where it is empty, or where the model cannot be read, as by default.
        """
        return [None] * len(conversations)


@dataclass(frozen=True)
class EngineAnswerer(Answerer):
    """Answers on one of Keel's engines, and projects its answers onto an axis."""

    engine: Engine
    axis: AssistantAxis | None = None
    """None projects no answer."""

    @property
    def identity(self) -> ModelIdentity:
        """The model that answers."""
        return self.engine.identity

    def plan(self, conversations: Sequence[Conversation], sampling: Sampling) -> Batches:
        """The engine's plan."""
        return tuple(batch.indices for batch in self.engine.plan(_prompts(conversations), sampling))

    def answer(
        self,
        conversations: Sequence[Conversation],
        arm: Arm,
        sampling: Sampling,
        *,
        seed: int,
        on_answer: Callable[[], None] = lambda: None,
    ) -> AnsweredBatch:
        """Answer one batch in one call of the engine, recording as it generates."""
        recording = Recording()
        if self.axis is not None:
            layer = self.axis.layer
            recording = Recording(probes=(Probe(layer, self.axis.direction[layer]),))
        completions = self.engine.generate(
            _prompts([arm.change(conversation) for conversation in conversations]),
            sampling,
            seed=seed,
            recording=recording,
            interventions=arm.interventions,
        )
        answers: dict[int, Answer] = {}
        for completion in completions:
            answers[completion.index] = _answer(completion)
            on_answer()
        firing = completions.firing if arm.has_bound else None
        return AnsweredBatch(tuple(answers[n] for n in range(len(conversations))), firing)

    def perplexities(self, conversations: Sequence[Conversation]) -> list[float | None]:
        """Exponential of minus the mean log-likelihood of each last answer's tokens."""
        perplexities: list[float | None] = [None] * len(conversations)
        lasts = [conversation.messages[-1] for conversation in conversations]
        worded = [
            n for n, m in enumerate(lasts) if (m.content if m.token_ids is None else m.token_ids)
        ]
        for reading in self.engine.read(
            [conversations[n] for n in worded], recording=Recording(log_likelihood=True)
        ):
            scores_T = reading.turns[-1].log_likelihood_T
            assert scores_T is not None, "the engine did not record what was asked for"
            perplexities[worded[reading.index]] = math.exp(-float(scores_T.double().mean()))
        return perplexities


def _prompts(conversations: Sequence[Conversation]) -> list[Prompt]:
    return [Prompt(str(index), conversation) for index, conversation in enumerate(conversations)]


def _answer(completion: Completion) -> Answer:
    projection = None
    if completion.projections_TK is not None and len(completion.projections_TK):
        projection = float(completion.projections_TK[:, 0].double().mean())
        if not math.isfinite(projection):
            raise NotFiniteError(
                f"an answer projects to {projection}, expected a number; load the model in "
                "float32 or bfloat16"
            )
    ids = completion.token_ids
    return Answer(completion.text, len(ids), completion.finish, ids, projection)
