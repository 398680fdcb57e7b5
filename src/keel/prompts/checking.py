"""What is wrong with a library, by the measures that Keel's own keeps to.

By words alone: whether two texts say the same in other words is for `find_twins`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from keel.prompts.shipped import PlacedText, texts_of
from keel.prompts.values import PAIRS_PER_TRAIT, Library, Question, Role, Trait

PROMPT_WORDS = (12, 45)
"""Fewer set no character, more are a story of their own."""
QUESTION_WORDS = (6, 20)
DESCRIPTION_WORDS = (3, 16)
RUBRIC_WORDS = (8, 45)
MOST_SHARED_WORDS = 0.5
"""Of the different words of two prompts for one thing: past this, one is a rewording."""
LEAST_EVEN = 0.6
"""The shorter side of a trait's pair has so much of the longer's words: length is no quality."""

MOST_ALIKE = 0.95
"""Cosine between two prompts of one role, or between those of one side of a trait."""
MOST_ALIKE_ACROSS = 0.85
"""Cosine between prompts of two roles or of two traits, and between two questions."""

Embed = Callable[[Sequence[str]], Any]
"""Texts -> an array with a row of length 1 for each."""


@dataclass(frozen=True)
class Fault:
    """Something to be mended, and where it is."""

    place: str
    complaint: str


def find_faults(library: Library) -> list[Fault]:
    """What a reader of the texts would send back: lengths, repeats, roles that are not named."""
    return [
        *(fault for role in library.roles for fault in _role_faults(role)),
        *(fault for trait in library.traits for fault in _trait_faults(trait)),
        *(fault for question in library.questions for fault in _question_faults(question)),
        *_repeats(texts_of(library)),
    ]


def find_twins(library: Library, embed: Embed) -> list[Fault]:
    """Prompts, and questions, that say much the same as another, by their embeddings.

    The two sides of a trait's pair are not compared: they are to differ in the trait alone.
    """
    roles = [
        _Voice(f"role {role.name}", f"prompt {n}", role.name, text)
        for role in library.roles
        for n, text in enumerate(role.system_prompts, start=1)
    ]
    traits = [
        _Voice(f"trait {trait.name}", f"{side} {n}", f"{trait.name}/{side}", text)
        for trait in library.traits
        for n, pair in enumerate(trait.pairs, start=1)
        for side, text in (("encourage", pair.encourage), ("discourage", pair.discourage))
    ]
    asked = [
        _Voice(f"question {n}", "", f"{n}", question.text)
        for n, question in enumerate(library.questions, start=1)
    ]
    return [fault for voices in (roles, traits, asked) for fault in _twins(voices, embed)]


@dataclass(frozen=True)
class _Voice:
    """A text to be compared with the others of its sort."""

    owner: str
    part: str
    family: str
    """Texts of one family are five ways to set one thing, and may be nearer to each other."""
    text: str

    @property
    def place(self) -> str:
        return f"{self.owner}, {self.part}" if self.part else self.owner


def _twins(voices: Sequence[_Voice], embed: Embed) -> Iterator[Fault]:
    if len(voices) < 2:
        return
    rows = np.asarray(embed([voice.text for voice in voices]), dtype=np.float32)
    for one, row in enumerate(rows[:-1]):
        cosines = rows[one + 1 :] @ row
        for step in np.flatnonzero(cosines > MOST_ALIKE_ACROSS):
            this, other = voices[one], voices[one + 1 + int(step)]
            cosine = float(cosines[step])
            if cosine > _allowed(this, other):
                yield Fault(other.place, f"is too like {this.place}: cosine {cosine:.2f}")


def _allowed(this: _Voice, other: _Voice) -> float:
    if this.family == other.family:
        return MOST_ALIKE
    return 1.0 if this.owner == other.owner else MOST_ALIKE_ACROSS


def _role_faults(role: Role) -> Iterator[Fault]:
    place = f"role {role.name}"
    if not role.kind:
        yield Fault(place, "has no kind, such as professional or mythical")
    yield from _length(f"{place}, description", role.description, DESCRIPTION_WORDS)
    yield from _length(f"{place}, rubric", role.rubric, RUBRIC_WORDS)
    for number, text in enumerate(role.system_prompts, start=1):
        yield from _length(f"{place}, prompt {number}", text, PROMPT_WORDS)
        if not _names(role.name, text):
            yield Fault(f"{place}, prompt {number}", "does not name its role; each is to set it")
    yield from _rewordings(place, "prompt", role.system_prompts)


def _trait_faults(trait: Trait) -> Iterator[Fault]:
    place = f"trait {trait.name}"
    if len(trait.pairs) != PAIRS_PER_TRAIT:
        yield Fault(place, f"has {len(trait.pairs)} pairs, expected {PAIRS_PER_TRAIT}")
    yield from _length(f"{place}, description", trait.description, DESCRIPTION_WORDS)
    yield from _length(f"{place}, rubric", trait.rubric, RUBRIC_WORDS)
    for number, pair in enumerate(trait.pairs, start=1):
        yield from _length(f"{place}, encourage {number}", pair.encourage, PROMPT_WORDS)
        yield from _length(f"{place}, discourage {number}", pair.discourage, PROMPT_WORDS)
        lengths = sorted(len(text.split()) for text in (pair.encourage, pair.discourage))
        if lengths[0] < LEAST_EVEN * lengths[1]:
            yield Fault(
                f"{place}, pair {number}", f"is uneven: {lengths[0]} and {lengths[1]} words"
            )
    yield from _rewordings(place, "encourage", [pair.encourage for pair in trait.pairs])
    yield from _rewordings(place, "discourage", [pair.discourage for pair in trait.pairs])


def _question_faults(question: Question) -> Iterator[Fault]:
    place = f"question {question.text!r}"
    if not question.topic:
        yield Fault(place, "has no topic")
    yield from _length(place, question.text, QUESTION_WORDS)


def _length(place: str, text: str, bounds: tuple[int, int]) -> Iterator[Fault]:
    least, most = bounds
    count = len(text.split())
    if not least <= count <= most:
        yield Fault(place, f"has {count} words, expected {least} to {most}")


def _names(name: str, text: str) -> bool:
    """Whether a text has each part of a name, or its first two thirds: healing, healer's."""
    said = text.lower()
    stems = (part[: max(3, -(-2 * len(part) // 3))] for part in name.lower().split("_"))
    return all(re.search(rf"\b{re.escape(stem)}", said) for stem in stems)


def _rewordings(place: str, part: str, texts: Sequence[str]) -> Iterator[Fault]:
    bags = [set(words(text)) for text in texts]
    for one, other in combinations(range(len(texts)), 2):
        share = len(bags[one] & bags[other]) / max(len(bags[one] | bags[other]), 1)
        if share >= MOST_SHARED_WORDS:
            yield Fault(
                f"{place}, {part} {other + 1}", f"shares {share:.0%} of its words with {one + 1}"
            )


def _repeats(texts: Iterator[PlacedText]) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    for placed in texts:
        said = " ".join(words(placed.text))
        if said and said in seen:
            yield Fault(placed.place, f"says the same as {seen[said]}")
        seen.setdefault(said, placed.place)


def words(text: str) -> list[str]:
    """A text's words, without case or marks; an apostrophe belongs to its word."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())
