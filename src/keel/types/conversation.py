"""Prompts, the conversations that they consist of, their answers, and judgements of these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from keel.errors import UsageError
from keel.seeds import text_hash

Speaker = Literal["system", "user", "assistant"]
Label = Literal["fully", "somewhat", "none", "unjudged"]

DEFAULT_ROLE = "default"
"""Role name of prompts that set no role: the model as it is by default."""
_TRAIT = "trait:"


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    speaker: Speaker
    content: str
    token_ids: tuple[int, ...] | None = None
    """The tokens as sampled, where they are known: re-tokenising text can differ."""
    thinking: str = field(default="", metadata={"sparse": True})
    """What the assistant thought before it answered, where that was kept apart."""


@dataclass(frozen=True)
class Conversation:
    """Messages in order: at most one system message, first; then user and assistant."""

    messages: tuple[Message, ...]
    id: str = ""

    def __post_init__(self) -> None:
        if not self.messages:
            raise UsageError(f"conversation {self.id!r} has no messages; give at least one")
        for index, message in enumerate(self.messages):
            if message.speaker == "system" and index > 0:
                raise UsageError(
                    f"conversation {self.id!r} has a system message at index {index}; "
                    "only the first message may be one"
                )

    @property
    def system(self) -> str | None:
        """Text of the system message, None where there is none."""
        first = self.messages[0]
        return first.content if first.speaker == "system" else None

    def with_reply(self, text: str, token_ids: tuple[int, ...] | None = None) -> Conversation:
        """The conversation with one assistant message more."""
        return Conversation((*self.messages, Message("assistant", text, token_ids)), self.id)

    def with_user(self, text: str) -> Conversation:
        """The conversation with one user message more."""
        return Conversation((*self.messages, Message("user", text)), self.id)

    def without_system(self) -> Conversation:
        """The conversation without its system message."""
        return Conversation(tuple(m for m in self.messages if m.speaker != "system"), self.id)


@dataclass(frozen=True)
class TraitSide:
    """One of a trait's two sides: its prompts encourage the trait, or discourage it."""

    trait: str
    is_encouraged: bool

    @property
    def role(self) -> str:
        """The name that prompts and rollouts have in place of a role, e.g. `trait:stoic/+`.

        The slash tells it from every role: nine of Keel's traits share their name with one.
        """
        return f"{_TRAIT}{self.trait}/{'+' if self.is_encouraged else '-'}"

    @property
    def opposite(self) -> TraitSide:
        """The other side of the trait."""
        return TraitSide(self.trait, not self.is_encouraged)

    @classmethod
    def of(cls, role: str) -> TraitSide | None:
        """The side that such a name means; None where it is a role's name, or the default's."""
        if not role.startswith(_TRAIT) or role[-2:] not in ("/+", "/-"):
            return None
        return cls(role.removeprefix(_TRAIT)[:-2], role.endswith("+"))


@dataclass(frozen=True)
class Prompt:
    """One input to a model: a role's system prompt and a question, or a whole conversation."""

    id: str
    """Unique in a run, e.g. `pirate/p2/q17`, or `trait:stoic/+0/q1`."""
    conversation: Conversation
    role: str = DEFAULT_ROLE
    system_index: int = 0
    """Index among the role's system prompts, or among the trait's pairs."""
    question_index: int = 0
    """Index among the run's questions."""

    @property
    def is_default(self) -> bool:
        """Whether no role and no trait is set."""
        return self.role == DEFAULT_ROLE

    @property
    def side(self) -> TraitSide | None:
        """The trait and side that the prompt sets; None where it sets no trait."""
        return TraitSide.of(self.role)

    @property
    def is_role(self) -> bool:
        """Whether the prompt sets a role: neither the default nor a trait."""
        return not self.is_default and self.side is None


@dataclass(frozen=True)
class Rollout:
    """One answered prompt. `token_ids` are the content tokens that were sampled, no end token."""

    prompt: Prompt
    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]

    @property
    def conversation(self) -> Conversation:
        """Prompt and answer, the answer with its sampled tokens."""
        return self.prompt.conversation.with_reply(self.text, self.token_ids)


@dataclass(frozen=True)
class Judgement:
    """A judge's label of one rollout: how far it plays its role."""

    rollout_id: str
    label: Label
    score: float | None = None
    """On the judge's own scale; None where it gave no score."""
    status: Literal["ok", "unparsed", "failed"] = "ok"


def system_hash(system: str | None) -> str:
    """SHA-256 of a system prompt, in hex; that of the empty text where there is none."""
    return text_hash(system or "")
