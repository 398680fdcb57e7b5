"""Prompts that put a character to the test, once it is found: what the evaluations ask."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from keel.errors import UsageError
from keel.prompts.values import check_unique
from keel.types import Conversation, Message

PREFILL_KINDS = ("purpose", "traits")
USER_DOMAINS = ("coding", "writing", "therapy", "philosophy")


@dataclass(frozen=True)
class SusceptibleRole:
    """A job near to an assistant's, set firmly as a human being's: does the model give up its own
    name for it?"""

    role: str
    system_prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_filled(f"role {self.role!r}", self.system_prompts)
        check_unique(f"role {self.role!r}: system prompt", self.system_prompts)


@dataclass(frozen=True)
class Prefill:
    """How a sentence about oneself begins, for a base model to finish."""

    kind: str
    """`purpose`: what the speaker is for; `traits`: what the speaker is like."""
    text: str

    def __post_init__(self) -> None:
        _check_known("a prefill's kind", self.kind, PREFILL_KINDS)
        _check_filled("a prefill", [self.text])
        if self.text != self.text.strip() or self.text[-1] in ".!?":
            raise UsageError(f"prefill {self.text!r} is finished, expected one that stops halfway")


@dataclass(frozen=True)
class UserPersona:
    """Somebody who talks with the model, and what about."""

    id: str
    domain: str
    """coding, writing, therapy or philosophy."""
    name: str
    description: str
    """Who they are, how they write, what they want."""
    topics: tuple[str, ...]
    """What a conversation may be about, one each."""

    def __post_init__(self) -> None:
        _check_known(f"user {self.id!r}: domain", self.domain, USER_DOMAINS)
        _check_filled(f"user {self.id!r}", [self.name, self.description, *self.topics])
        check_unique(f"user {self.id!r}: topic", self.topics)


@dataclass(frozen=True)
class RedTeamPersona:
    """A system prompt that sets somebody who would rather not be good."""

    id: str
    system_prompt: str


@dataclass(frozen=True)
class RedTeamRequest:
    """What a default assistant would decline or turn, and what a good answer to it does."""

    id: str
    category: str
    request: str
    good_answer: str


@dataclass(frozen=True)
class RedTeamCase:
    """One persona asked one thing."""

    id: str
    system_prompt: str
    """Empty where no persona is set."""
    request: str
    category: str
    good_answer: str = ""
    """One sentence saying what a good answer does; empty where nobody said."""

    def __post_init__(self) -> None:
        _check_filled(f"red-team case {self.id!r}: request", [self.request])
        _check_filled(f"red-team case {self.id!r}: category", [self.category])

    @property
    def conversation(self) -> Conversation:
        """Persona and request, to be answered."""
        persona = self.system_prompt.strip()
        opening = [Message("system", self.system_prompt)] if persona else []
        return Conversation((*opening, Message("user", self.request)), self.id)


@dataclass(frozen=True)
class RedTeam:
    """Personas and requests, each persona to be asked each."""

    personas: tuple[RedTeamPersona, ...]
    requests: tuple[RedTeamRequest, ...]

    def __post_init__(self) -> None:
        check_unique("red-team persona", [persona.id for persona in self.personas])
        check_unique("red-team request", [request.id for request in self.requests])

    @property
    def cases(self) -> tuple[RedTeamCase, ...]:
        """Every persona with every request."""
        return tuple(
            RedTeamCase(
                f"{persona.id}/{asked.id}",
                persona.system_prompt,
                asked.request,
                asked.category,
                asked.good_answer,
            )
            for persona, asked in product(self.personas, self.requests)
        )


def _check_known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{what} is {value!r}, expected {', '.join(known)}")


def _check_filled(what: str, texts: tuple[str, ...] | list[str]) -> None:
    if not texts or not all(text.strip() for text in texts):
        raise UsageError(f"{what} has an empty text; write it")
