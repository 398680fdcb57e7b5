"""Counts the answers and tokens of a run over a library, before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from keel.errors import UsageError
from keel.prompts.values import Library
from keel.settings import PromptSettings

SIDES_OF_A_PAIR = 2


@dataclass(frozen=True)
class Price:
    """The number of answers and tokens that a run generates, at the most."""

    what: str
    characters: int
    """Roles, traits, or the default alone."""
    questions: int
    prompts_per_question: int
    max_new_tokens: int

    @property
    def answers(self) -> int:
        """Characters × questions × system prompts."""
        return self.characters * self.questions * self.prompts_per_question

    @property
    def new_tokens(self) -> int:
        """Where every answer is as long as it may be."""
        return self.answers * self.max_new_tokens

    def hours(self, tokens_per_s: float) -> float:
        """On an engine that generates so fast over all its answers at once."""
        if not tokens_per_s > 0:
            raise UsageError(f"speed is {tokens_per_s} tokens per second, expected above 0")
        return self.new_tokens / tokens_per_s / 3600


def price_roles(library: Library, settings: PromptSettings, max_new_tokens: int) -> list[Price]:
    """The price of a run over roles: theirs and the default's."""
    roles = _count(settings.roles, len(library.roles), "roles")
    questions = _count(settings.questions, len(library.questions), "questions")
    return [
        Price("roles", roles, questions, settings.prompts_per_question, max_new_tokens),
        Price("default", 1, questions, len(library.default_prompts), max_new_tokens),
    ]


def price_traits(library: Library, settings: PromptSettings, max_new_tokens: int) -> Price:
    """The price of a run over traits: both sides of as many pairs as a role has prompts."""
    traits = _count(settings.traits, len(library.traits), "traits")
    questions = _count(settings.questions, len(library.questions), "questions")
    prompts = settings.prompts_per_question * SIDES_OF_A_PAIR
    return Price("traits", traits, questions, prompts, max_new_tokens)


def _count(wanted: int | None, available: int, what: str) -> int:
    if wanted is not None and wanted > available:
        raise UsageError(
            f"{wanted} {what} are asked for, but the library has {available}; ask for less"
        )
    return available if wanted is None else wanted
