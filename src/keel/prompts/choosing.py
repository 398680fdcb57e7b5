"""Chooses roles, traits and questions of a library, combines them into prompts, and prices a run.

The price counts answers and tokens before any model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import TypeVar

from keel.errors import UsageError
from keel.prompts.values import MODEL_NAME, Library, Question, conversation_of
from keel.settings import PROMPTS_PER_ROLE, PromptSettings
from keel.types import DEFAULT_ROLE, Prompt, TraitSide

SIDES_OF_A_PAIR = 2

T = TypeVar("T")


def make_prompts(library: Library, settings: PromptSettings, *, model_name: str) -> list[Prompt]:
    """The prompts of a run: each question chosen for each role and for the default.

    A role answers question q under its system prompts q, q + 1, ... (modulo 5), so that all five
    ways of setting it are used even where each question is asked once. The default answers every
    question under each of its prompts. Raises UsageError when the library has too few of anything.

    >>> from keel.prompts import load_library
    >>> settings = PromptSettings(roles=24, questions=12, prompts_per_question=1)
    >>> prompts = make_prompts(load_library(), settings, model_name="SmolLM2")
    >>> len(prompts), prompts[-1].id  # 24 roles × 12, and the default's 12 × 5
    (348, 'widow/p1/q11')
    """
    roles = _spread("roles", library.roles, settings.roles, settings.seed, lambda role: role.kind)
    questions = _questions(library, settings)
    return [
        *make_default_prompts(library, settings, model_name=model_name),
        *(
            _prompt(role.name, (p, role.system_prompts[p]), (q, question))
            for role in roles
            for q, question in questions
            for p in _rotated(PROMPTS_PER_ROLE, q, settings.prompts_per_question)
        ),
    ]


def make_default_prompts(
    library: Library, settings: PromptSettings, *, model_name: str
) -> list[Prompt]:
    """The default's part of a run: each question chosen under each of its prompts."""
    if not library.questions or not library.default_prompts:
        raise UsageError("there are no questions or no default prompts; give a file of each")
    named = [text.replace(MODEL_NAME, model_name) for text in library.default_prompts]
    return [
        _prompt(DEFAULT_ROLE, (p, system), (q, question))
        for q, question in _questions(library, settings)
        for p, system in enumerate(named)
    ]


def sample_prompts(
    prompts: Sequence[Prompt], *, roles: int, questions: int, seed: int
) -> list[Prompt]:
    """Those of the prompts that set the default or one of so many roles, to so many questions.

    Drawn, not taken at equal steps: a step of five would meet each role under one system prompt.
    """
    names = sorted({prompt.role for prompt in prompts if prompt.is_role})
    indices = sorted({prompt.question_index for prompt in prompts})
    draw = Random(f"{seed}/sample")
    kept = {DEFAULT_ROLE, *draw.sample(names, min(roles, len(names)))}
    drawn = set(draw.sample(indices, min(questions, len(indices))))
    return [p for p in prompts if p.role in kept and p.question_index in drawn]


def make_trait_prompts(library: Library, settings: PromptSettings) -> list[Prompt]:
    """The traits' part of a run: each question under both sides of a pair, pairs in rotation.

    A trait with questions of its own is asked as many of those instead.

    >>> from keel.prompts import load_library
    >>> prompts = make_trait_prompts(load_library(), PromptSettings(questions=12, traits=3))
    >>> len(prompts), prompts[0].id  # 3 traits × 12 questions × 5 pairs × 2 sides
    (360, 'trait:calculating/+0/q0')
    """
    traits = _spread("traits", library.traits, settings.traits, settings.seed, lambda _: "")
    prompts = []
    for trait in traits:
        sides = [TraitSide(trait.name, is_encouraged).role for is_encouraged in (True, False)]
        own = [Question(text) for text in trait.questions[: settings.questions]]
        for q, question in list(enumerate(own)) or _questions(library, settings):
            for p in _rotated(len(trait.pairs), q, settings.prompts_per_question):
                texts = (trait.pairs[p].encourage, trait.pairs[p].discourage)
                prompts += [
                    _prompt(side, (p, system), (q, question))
                    for side, system in zip(sides, texts, strict=True)
                ]
    return prompts


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
    roles = _count("roles", settings.roles, len(library.roles))
    questions = _count("questions", settings.questions, len(library.questions))
    return [
        Price("roles", roles, questions, settings.prompts_per_question, max_new_tokens),
        Price("default", 1, questions, len(library.default_prompts), max_new_tokens),
    ]


def price_traits(library: Library, settings: PromptSettings, max_new_tokens: int) -> Price:
    """The price of a run over traits: both sides of as many pairs as a role has prompts."""
    traits = _count("traits", settings.traits, len(library.traits))
    questions = _count("questions", settings.questions, len(library.questions))
    prompts = settings.prompts_per_question * SIDES_OF_A_PAIR
    return Price("traits", traits, questions, prompts, max_new_tokens)


def _questions(library: Library, settings: PromptSettings) -> list[tuple[int, Question]]:
    """The questions chosen from the library, each with its number."""
    questions, seed = library.questions, settings.seed
    chosen = _spread("questions", questions, settings.questions, seed, lambda q: q.topic)
    return list(enumerate(chosen))


def _spread(
    what: str, items: Sequence[T], count: int | None, seed: int, group: Callable[[T], str]
) -> list[T]:
    """A seeded choice that takes from each group in turn, in the library's order.

    A small choice so has as many of the seven machines as of the ninety professions: it is to
    span the space, not to copy the library's proportions. A larger choice with the same seed
    holds the smaller one.
    """
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(group(item), []).append(index)
    for name, members in groups.items():
        Random(f"{seed}/{name}").shuffle(members)
    dealt = [index for row in zip_longest(*groups.values()) for index in row if index is not None]
    return [items[index] for index in sorted(dealt[: _count(what, count, len(items))])]


def _count(what: str, wanted: int | None, available: int) -> int:
    """How many of a library's roles, traits or questions a run takes; all where none is wanted."""
    if wanted is None:
        return available
    if wanted > available:
        raise UsageError(
            f"{wanted} {what} are asked for, but the library has {available}; "
            f"ask for {available} or fewer, or give more"
        )
    return wanted


def _rotated(available: int, start: int, count: int) -> list[int]:
    """Indices of the system prompts, or pairs, under which a question is asked; no repeats."""
    return [(start + step) % available for step in range(min(count, available))]


def _prompt(role: str, system: tuple[int, str], question: tuple[int, Question]) -> Prompt:
    """One prompt; system prompt and question each with their number."""
    (p, text), (q, wording) = system, question
    stem = role if TraitSide.of(role) else f"{role}/p"
    return Prompt(f"{stem}{p}/q{q}", conversation_of(text, wording.text), role, p, q)
