"""Which roles are asked which questions, under which system prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from random import Random
from typing import TypeVar

from keel.errors import UsageError
from keel.prompts.values import PROMPTS_PER_ROLE, Library, Question, Role
from keel.types import DEFAULT_ROLE, Conversation, Message, Prompt

T = TypeVar("T")


@dataclass(frozen=True)
class PromptSettings:
    """How many roles are asked how many questions."""

    roles: int | None = None
    """Roles to take, spread over their kinds; all where it is not set."""
    questions: int | None = None
    """Questions to take, spread over their topics; all where it is not set."""
    prompts_per_question: int = PROMPTS_PER_ROLE
    """System prompts under which a role answers each question, 1 to 5, in rotation."""
    seed: int = 0
    """Decides the choice."""

    def __post_init__(self) -> None:
        if not 1 <= self.prompts_per_question <= PROMPTS_PER_ROLE:
            raise UsageError(
                f"prompts_per_question is {self.prompts_per_question}, expected 1 to "
                f"{PROMPTS_PER_ROLE}"
            )


def settings_for(scale: str) -> PromptSettings:
    """The choice at a scale: `smoke`, `small` or `paper` (all of everything)."""
    known = {
        "smoke": PromptSettings(24, 12, 1),
        "small": PromptSettings(40, 20, 2),
        "paper": PromptSettings(),
    }
    if scale not in known:
        raise UsageError(f"scale is {scale!r}, expected {', '.join(known)}")
    return known[scale]


def make_prompts(library: Library, settings: PromptSettings, *, model_name: str) -> list[Prompt]:
    """The prompts of a run: each role and the default asked each question chosen.

    A role answers question q under its system prompts q, q + 1, ... (modulo 5), so that all five
    ways of setting it are heard even where each question is asked once. The default answers every
    question under each of its prompts. Raises UsageError when the library has too few of anything.
    """
    roles = _spread(library.roles, settings.roles, settings.seed, "roles", lambda r: r.kind)
    asked = _spread(
        library.questions, settings.questions, settings.seed, "questions", lambda q: q.topic
    )
    if not library.default_prompts:
        raise UsageError("there are no default prompts; add a default.json to the folder of roles")
    default = [text.replace("{model_name}", model_name) for text in library.default_prompts]
    everyone = ((number, question) for number, question in enumerate(asked))
    return [
        *(p for n, q in everyone for p in _of_default(default, n, q)),
        *chain.from_iterable(
            _of_role(role, number, question, settings.prompts_per_question)
            for role in roles
            for number, question in enumerate(asked)
        ),
    ]


def _of_default(texts: Sequence[str], number: int, question: Question) -> Iterator[Prompt]:
    for index, text in enumerate(texts):
        yield _prompt(DEFAULT_ROLE, index, text, number, question)


def _of_role(role: Role, number: int, question: Question, count: int) -> Iterator[Prompt]:
    for step in range(count):
        index = (number + step) % PROMPTS_PER_ROLE
        yield _prompt(role.name, index, role.system_prompts[index], number, question)


def _prompt(role: str, index: int, system: str, number: int, question: Question) -> Prompt:
    opening = [Message("system", system)] if system else []
    conversation = Conversation((*opening, Message("user", question.text)))
    return Prompt(f"{role}/p{index}/q{number}", conversation, role, index, number)


def _spread(
    items: Sequence[T], count: int | None, seed: int, what: str, group: Callable[[T], str]
) -> list[T]:
    """A seeded choice that takes from each group in turn, in the library's order.

    What is chosen of few is chosen of more, too: a larger run holds the smaller one's.
    """
    if count is None:
        return list(items)
    if count > len(items):
        raise UsageError(f"{count} {what} are asked for, but the library has {len(items)}")
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(group(item), []).append(item)
    for name, members in groups.items():
        Random(f"{seed}/{name}").shuffle(members)
    dealt = [item for row in zip_longest(*groups.values()) for item in row if item is not None]
    chosen = {id(item) for item in dealt[:count]}
    return [item for item in items if id(item) in chosen]
