"""What a library of prompts is made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from keel.errors import UsageError
from keel.settings import PROMPTS_PER_ROLE
from keel.types import DEFAULT_ROLE, Conversation, Message

PAIRS_PER_TRAIT = 5

MODEL_NAME = "{model_name}"
"""Stands in a default prompt for the name that the model goes by."""


@dataclass(frozen=True)
class Role:
    """A character to be played."""

    name: str
    system_prompts: tuple[str, ...]
    """Five ways to set the role, different in approach."""
    kind: str = ""
    """What sort of character: professional, mythical, ...; empty where nobody said."""
    description: str = ""
    """One line."""
    rubric: str = ""
    """By what an answer in this role is known."""

    def __post_init__(self) -> None:
        check_name("role", self.name)
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
        check_name("trait", self.name)
        if not self.pairs:
            raise UsageError(f"trait {self.name!r} has no pair of system prompts; give one or more")


@dataclass(frozen=True)
class Library:
    """Whom to ask, and what."""

    roles: tuple[Role, ...]
    default_prompts: tuple[str, ...]
    """Neutral system prompts; the empty one means none. May hold `{model_name}`."""
    questions: tuple[Question, ...]
    """Told apart by their place: two may read the same, as in the reference's file."""
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
        """System prompt and user turns, to be answered one after the other."""
        opening = [Message("system", self.system)] if self.system else []
        return Conversation((*opening, *(Message("user", t) for t in self.turns)), self.id)


def role_kinds(library: Library) -> dict[str, str]:
    """Role -> kind, for those that have one."""
    return {role.name: role.kind for role in library.roles if role.kind}


def check_name(what: str, name: str) -> None:
    """Refuse a name that could not stand in a prompt's id. Raises UsageError."""
    if not name.strip() or "/" in name:
        raise UsageError(f"{what} name {name!r} cannot stand in a prompt's id; no slash")


def check_unique(what: str, values: Sequence[str]) -> None:
    """Refuse values of which one is there twice, naming it. Raises UsageError."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise UsageError(f"{what} {value!r} is there twice; remove one")
        seen.add(value)


def check_default_prompts(texts: Sequence[str]) -> None:
    """Refuse default prompts that repeat, or that would reach the model with a hole in them."""
    check_unique("default prompt", texts)
    for text in texts:
        for hole in re.findall(r"\{\w+\}", text):
            if hole != MODEL_NAME:
                raise UsageError(f"default prompt has {hole}, expected {MODEL_NAME} or none")
