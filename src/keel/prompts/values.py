"""What a library of prompts is made of, and the sets of prompts that evaluations ask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from keel.errors import UsageError
from keel.settings import PROMPTS_PER_ROLE
from keel.types import DEFAULT_ROLE, Conversation, Message

PAIRS_PER_TRAIT = 5

MODEL_NAME = "{model_name}"
"""Stands in a default prompt for the name that the model goes by."""

PREFILL_KINDS = ("purpose", "traits")
USER_DOMAINS = ("coding", "writing", "therapy", "philosophy")
NEUTRAL = "neutral"
"""Domain of users' lines that ask for plain tasks, each unrelated to the others."""
LINE_PULLS = (
    "opening",
    "task",
    "edit",
    "explain",
    "voice",
    "meta",
    "disclosure",
    "closeness",
)


@dataclass(frozen=True)
class Role:
    """A character to be played."""

    name: str
    system_prompts: tuple[str, ...]
    """Five ways to set the role, different in approach."""
    kind: str = ""
    """What sort of character: professional, mythical, ...; may be empty."""
    description: str = ""
    """One line."""
    rubric: str = ""
    """How to recognise an answer in this role."""

    def __post_init__(self) -> None:
        _check_name("role", self.name)
        if self.name == DEFAULT_ROLE:
            raise UsageError(f"a role cannot be called {DEFAULT_ROLE!r}: that is the model itself")
        if len(self.system_prompts) != PROMPTS_PER_ROLE:
            raise UsageError(
                f"role {self.name!r} has {len(self.system_prompts)} system prompts, expected "
                f"{PROMPTS_PER_ROLE}; add or remove some"
            )
        if not all(text.strip() for text in self.system_prompts):
            raise UsageError(f"role {self.name!r} has an empty system prompt; write it")
        check_unique(f"role {self.name!r}: system prompt", self.system_prompts)


@dataclass(frozen=True)
class Question:
    """A question that any character can answer."""

    text: str
    topic: str = ""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise UsageError("a question is empty; delete its line")


@dataclass(frozen=True)
class TraitPair:
    """Two system prompts that pull a quality in opposite directions."""

    encourage: str
    discourage: str

    def __post_init__(self) -> None:
        if not self.encourage.strip() or not self.discourage.strip():
            raise UsageError("a trait's system prompt is empty; write both of the pair")


@dataclass(frozen=True)
class Trait:
    """A quality of an answer, with prompts that encourage and discourage it."""

    name: str
    pairs: tuple[TraitPair, ...]
    description: str = ""
    """One line."""
    questions: tuple[str, ...] = ()
    """Questions of its own, as the reference's traits have; Keel's have none. A library's
    questions are the pool that serves all its traits, as they serve all its roles."""
    rubric: str = ""
    """What an answer that scores 100 does, and what one that scores 0 does."""

    def __post_init__(self) -> None:
        _check_name("trait", self.name)
        if not self.pairs:
            raise UsageError(f"trait {self.name!r} has no pair of system prompts; give one or more")


@dataclass(frozen=True)
class Library:
    """Roles, traits, default prompts and questions."""

    roles: tuple[Role, ...]
    default_prompts: tuple[str, ...]
    """Neutral system prompts; the empty one means none. May hold `{model_name}`."""
    questions: tuple[Question, ...]
    """Identified by their index: two may read the same, as in the reference's file."""
    traits: tuple[Trait, ...] = ()

    def __post_init__(self) -> None:
        check_unique("role", [role.name for role in self.roles])
        check_unique("trait", [trait.name for trait in self.traits])
        check_default_prompts(self.default_prompts)


@dataclass(frozen=True)
class Scenario:
    """User turns that provoke a model to leave its character, mild and harmless."""

    id: str
    title: str
    system: str | None
    turns: tuple[str, ...]

    @property
    def conversation(self) -> Conversation:
        """System prompt and user turns, each to be answered in turn."""
        return conversation_of(self.system or "", *self.turns, id=self.id)


@dataclass(frozen=True)
class SusceptibleRole:
    """A job close to an assistant's, with system prompts that set it as a human being's.

    It tests whether the model gives up its own name.
    """

    role: str
    system_prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_filled(f"role {self.role!r}", self.system_prompts)
        check_unique(f"role {self.role!r}: system prompt", self.system_prompts)


@dataclass(frozen=True)
class Prefill:
    """The beginning of a sentence in the first person, for a base model to complete."""

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
    """A simulated user: who talks with the model, and about which topics."""

    id: str
    domain: str
    """coding, writing, therapy or philosophy."""
    name: str
    description: str
    """Who they are, how they write, what they want."""
    topics: tuple[str, ...]
    """Subjects of conversations, one conversation each."""

    def __post_init__(self) -> None:
        _check_known(f"user {self.id!r}: domain", self.domain, USER_DOMAINS)
        _check_filled(f"user {self.id!r}", [self.name, self.description, *self.topics])
        check_unique(f"user {self.id!r}: topic", self.topics)


@dataclass(frozen=True)
class UserLine:
    """A message that suits any user of a domain, written beforehand."""

    domain: str
    """A user's domain, or neutral: a plain task that has nothing to do with what was said."""
    pull: str
    """What it asks of the model; an opening has `{topic}`, or `{Topic}` at a sentence's start."""
    text: str

    def __post_init__(self) -> None:
        _check_known(f"line {self.text!r}: domain", self.domain, (*USER_DOMAINS, NEUTRAL))
        _check_known(f"line {self.text!r}: pull", self.pull, LINE_PULLS)
        _check_filled("a user's line", [self.text])
        is_opening = "{topic}" in self.text.lower()
        if is_opening != (self.pull == "opening"):
            raise UsageError(
                f"line {self.text!r} has the pull {self.pull}; an opening, and no other line, "
                "holds {topic}"
            )


@dataclass(frozen=True)
class RedTeamPersona:
    """A system prompt that sets a character with bad intentions."""

    id: str
    system_prompt: str


@dataclass(frozen=True)
class RedTeamRequest:
    """A request that an assistant should decline or redirect, and what a good answer does."""

    id: str
    category: str
    request: str
    good_answer: str


@dataclass(frozen=True)
class RedTeamCase:
    """One request under one persona's system prompt."""

    id: str
    system_prompt: str = field(metadata={"key": "prompt"})
    """Empty where no persona is set."""
    request: str
    category: str
    good_answer: str = ""
    """One sentence saying what a good answer does; may be empty."""

    def __post_init__(self) -> None:
        _check_filled(f"red-team case {self.id!r}: request", [self.request])
        _check_filled(f"red-team case {self.id!r}: category", [self.category])

    @property
    def conversation(self) -> Conversation:
        """Persona and request, to be answered."""
        return conversation_of(self.system_prompt, self.request, id=self.id)


@dataclass(frozen=True)
class RedTeam:
    """Red-team personas and requests, to be combined each with each."""

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
                f"{persona.id}/{request.id}",
                persona.system_prompt,
                request.request,
                request.category,
                request.good_answer,
            )
            for persona, request in product(self.personas, self.requests)
        )


def conversation_of(system: str, *turns: str, id: str = "") -> Conversation:
    """A user's turns, each to be answered, after the system prompt unless that is blank."""
    opening = [Message("system", system)] if system.strip() else []
    return Conversation((*opening, *(Message("user", turn) for turn in turns)), id)


def role_kinds(library: Library) -> dict[str, str]:
    """Role -> kind, for those that have one."""
    return {role.name: role.kind for role in library.roles if role.kind}


def check_unique(what: str, values: Sequence[str]) -> None:
    """Raise UsageError, naming the value, where one occurs twice."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise UsageError(f"{what} {value!r} is there twice; remove one")
        seen.add(value)


def check_default_prompts(texts: Sequence[str]) -> None:
    """Raise UsageError where default prompts repeat, or hold placeholders other than the name."""
    check_unique("default prompt", texts)
    for text in texts:
        for placeholder in re.findall(r"\{\w+\}", text):
            if placeholder != MODEL_NAME:
                raise UsageError(f"default prompt has {placeholder}, expected {MODEL_NAME} or none")


def _check_name(what: str, name: str) -> None:
    """Raise UsageError where a name could not stand in a prompt's id."""
    if not name.strip() or "/" in name:
        raise UsageError(f"{what} name {name!r} cannot stand in a prompt's id; no slash")


def _check_known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{what} is {value!r}, expected {', '.join(known)}")


def _check_filled(what: str, texts: Sequence[str]) -> None:
    if not texts or not all(text.strip() for text in texts):
        raise UsageError(f"{what} has an empty text; write it")
