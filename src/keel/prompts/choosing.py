"""Chooses roles, traits and questions of a library, and combines them into prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from random import Random
from typing import TypeVar

from keel.errors import UsageError
from keel.prompts.values import MODEL_NAME, Library, Question, Trait
from keel.settings import PROMPTS_PER_ROLE, PromptSettings
from keel.types import DEFAULT_ROLE, Conversation, Message, Prompt, TraitSide

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
    roles = _spread(
        library.roles, settings.roles, seed=settings.seed, what="roles", group=lambda r: r.kind
    )
    return [
        *make_default_prompts(library, settings, model_name=model_name),
        *(
            _prompt(role.name, (index, role.system_prompts[index]), question)
            for role in roles
            for question in _questions(library, settings)
            for index in _rotated(PROMPTS_PER_ROLE, question[0], settings.prompts_per_question)
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
        _prompt(DEFAULT_ROLE, system, question)
        for question in _questions(library, settings)
        for system in enumerate(named)
    ]


def make_trait_prompts(library: Library, settings: PromptSettings) -> list[Prompt]:
    """The traits' part of a run: each question under both sides of a pair, pairs in rotation.

    A trait with questions of its own is asked as many of those instead.

    >>> from keel.prompts import load_library
    >>> prompts = make_trait_prompts(load_library(), PromptSettings(questions=12, traits=3))
    >>> len(prompts), prompts[0].id  # 3 traits × 12 questions × 5 pairs × 2 sides
    (360, 'trait:calculating/+0/q0')
    """
    traits = _spread(
        library.traits, settings.traits, seed=settings.seed, what="traits", group=lambda t: ""
    )
    return [
        _trait_prompt(trait, pair, is_encouraged, question)
        for trait in traits
        for question in _questions(library, settings, trait)
        for pair in _rotated(len(trait.pairs), question[0], settings.prompts_per_question)
        for is_encouraged in (True, False)
    ]


def _questions(
    library: Library, settings: PromptSettings, trait: Trait | None = None
) -> list[tuple[int, Question]]:
    """The questions chosen from the library, or from the trait's own, each with its number."""
    if trait is not None and trait.questions:
        return list(enumerate(map(Question, trait.questions[: settings.questions])))
    chosen = _spread(
        library.questions,
        settings.questions,
        seed=settings.seed,
        what="questions",
        group=lambda q: q.topic,
    )
    return list(enumerate(chosen))


def _trait_prompt(
    trait: Trait, number: int, is_encouraged: bool, question: tuple[int, Question]
) -> Prompt:
    """The question under one side of one of the trait's pairs."""
    pair, side = trait.pairs[number], TraitSide(trait.name, is_encouraged)
    system = pair.encourage if is_encouraged else pair.discourage
    prompt = _prompt(side.role, (number, system), question)
    return replace(prompt, id=f"{side.role}{number}/q{question[0]}")


def _spread(
    items: Sequence[T], count: int | None, *, seed: int, what: str, group: Callable[[T], str]
) -> list[T]:
    """A seeded choice that takes from each group in turn, in the library's order.

    A small choice so has as many of the seven machines as of the ninety professions: it is to
    span the space, not to copy the library's proportions. A larger choice with the same seed
    holds the smaller one.
    """
    if count is None:
        return list(items)
    if count > len(items):
        raise UsageError(
            f"{count} {what} are asked for, but the library has {len(items)}; "
            f"ask for {len(items)} or fewer, or give more"
        )
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(group(item), []).append(index)
    for name, members in groups.items():
        Random(f"{seed}/{name}").shuffle(members)
    dealt = [index for row in zip_longest(*groups.values()) for index in row if index is not None]
    return [items[index] for index in sorted(dealt[:count])]


def _rotated(available: int, start: int, count: int) -> list[int]:
    """Indices of the system prompts, or pairs, under which a question is asked; no repeats."""
    return [(start + step) % available for step in range(min(count, available))]


def _prompt(role: str, system: tuple[int, str], question: tuple[int, Question]) -> Prompt:
    """One prompt; system prompt and question each with their number."""
    (system_index, text), (question_index, wording) = system, question
    opening = [Message("system", text)] if text.strip() else []
    conversation = Conversation((*opening, Message("user", wording.text)))
    name = f"{role}/p{system_index}/q{question_index}"
    return Prompt(name, conversation, role, system_index, question_index)
