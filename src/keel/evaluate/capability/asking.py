"""What lm-eval asks a model under an arm, and what is replied; who replies is for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from keel.errors import UsageError
from keel.evaluate.arms import Arm
from keel.steering import Firing
from keel.types import ModelIdentity


@dataclass(frozen=True)
class Length:
    """How long one generated answer was, as the model sampled it."""

    tokens: int
    is_ended: bool
    """Whether the model ended it, rather than the limit."""


@dataclass(frozen=True)
class Question:
    """All that the model is asked for one item: a text to answer, or several to score."""

    item_id: str
    leaf: str
    """Which of lm-eval's tasks it belongs to."""
    requests: tuple[Any, ...]

    @property
    def kind(self) -> str:
        """lm-eval's name for how the model is asked."""
        return str(self.requests[0].request_type)

    @property
    def is_one_text(self) -> bool:
        """Whether the answer is one generated text."""
        first = self.requests[0]
        return self.kind == "generate_until" and len(self.requests) == first.repeats == 1

    @property
    def max_new_tokens(self) -> int:
        """Longest answer; 0 where nothing is generated."""
        if self.kind != "generate_until":
            return 0
        from lm_eval.models.utils import normalize_gen_kwargs

        return int(normalize_gen_kwargs(self.requests[0].args[1])["max_gen_toks"])

    def cut(self, tokens: int) -> Question:
        """The same with a shorter answer."""
        if self.kind != "generate_until":
            return self
        short = {**self.requests[0].args[1], "max_gen_toks": min(tokens, self.max_new_tokens)}
        asked = (replace(one, arguments=(one.args[0], short)) for one in self.requests)
        return replace(self, requests=tuple(asked))


@dataclass(frozen=True)
class Reply:
    """What the model replied to one question."""

    responses: list[list[Any]]
    """As lm-eval takes them: one list per request, an entry per repeat."""
    length: Length | None = None
    """Of the answer, where it is one text."""


@dataclass(frozen=True)
class Replies:
    """One batch, asked."""

    replies: tuple[Reply, ...]
    """In the order of the questions."""
    firing: Firing | None
    """How often tokens were moved; None where the arm has no interventions."""


Batches = tuple[tuple[int, ...], ...]
"""Places of the questions that are asked together."""


@runtime_checkable
class TaskAnswerer(Protocol):
    """A model that lm-eval's tasks can be put to."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model it is."""

    @property
    def has_chat(self) -> bool:
        """Whether it takes chat messages."""

    @property
    def has_plain(self) -> bool:
        """Whether it takes bare text."""

    def fingerprint(self, arm: Arm) -> str:
        """Tells apart what an arm does here."""

    def chat_of(self, arm: Arm) -> Callable[..., str]:
        """lm-eval's way to write messages as one text, for `ask` to understand."""

    def batches_of(
        self, questions: Sequence[Question], size: int | None
    ) -> tuple[Batches, list[str]]:
        """What is asked together, and what has to be known of it."""

    def ask(self, arm: Arm, questions: Sequence[Question], *, seed: int) -> Replies:
        """One batch of questions of one kind, asked under an arm; the seed decides every draw."""


def system_of(arm: Arm) -> str | None:
    """The arm's words as lm-eval puts them before a prompt without a chat template."""
    if arm.instruction is None:
        return None
    if arm.instruction.is_repeated:
        raise UsageError(
            f"arm {arm.name!r} puts words before each user turn, and without a chat template "
            "there are none; leave it out"
        )
    return arm.instruction.text


def alike(questions: Sequence[Question]) -> dict[str, list[int]]:
    """Places of questions that lm-eval runs together: generated with the same arguments."""
    groups: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        is_text = question.kind == "generate_until"
        arguments = question.requests[0].args[1] if is_text else ""
        groups.setdefault(f"{question.kind} {arguments}", []).append(place)
    return groups
