"""What a library of prompts is made of."""

from __future__ import annotations

from dataclasses import dataclass

from keel.errors import UsageError
from keel.types import DEFAULT_ROLE, Conversation, Message

PROMPTS_PER_ROLE = 5


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
        if self.name == DEFAULT_ROLE:
            raise UsageError(f"a role cannot be called {DEFAULT_ROLE!r}: that is the model itself")
        if len(self.system_prompts) != PROMPTS_PER_ROLE:
            raise UsageError(
                f"role {self.name!r} has {len(self.system_prompts)} system prompts, expected "
                f"{PROMPTS_PER_ROLE}"
            )
        if not all(text.strip() for text in self.system_prompts):
            raise UsageError(f"role {self.name!r} has an empty system prompt")


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


@dataclass(frozen=True)
class Trait:
    """A quality of an answer, with prompts that encourage and discourage it."""

    name: str
    pairs: tuple[TraitPair, ...]
    description: str = ""
    questions: tuple[str, ...] = ()
    rubric: str = ""


@dataclass(frozen=True)
class Library:
    """Whom to ask, and what."""

    roles: tuple[Role, ...]
    default_prompts: tuple[str, ...]
    """Neutral system prompts; the empty one means none. May hold `{model_name}`."""
    questions: tuple[Question, ...]

    def __post_init__(self) -> None:
        _check_unique("role", [role.name for role in self.roles])
        _check_unique("question", [question.text for question in self.questions])


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


def _check_unique(what: str, values: list[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise UsageError(f"{what} {twice[0]!r} is there twice; each may be there once")
