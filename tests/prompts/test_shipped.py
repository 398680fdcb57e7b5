"""The library that ships: complete, varied, of the lengths it promises, and nobody else's words."""

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from keel.prompts import load_library, load_scenarios, role_kinds

REFERENCE = Path(__file__).resolve().parents[3] / "shared/data/reference"
NEEDS_REFERENCE = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference's prompt files are not beside the checkout"
)
KINDS = {
    "professional": 14,
    "everyday": 4,
    "creative": 4,
    "social": 4,
    "adventurer": 3,
    "mythical": 5,
    "collective": 2,
    "machine": 2,
    "natural": 2,
}


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def shipped_texts() -> list[str]:
    """Everything that somebody wrote; the empty prompts have nothing to compare."""
    library = load_library()
    texts = [t for r in library.roles for t in (r.description, r.rubric, *r.system_prompts)]
    texts += [*library.default_prompts, *(q.text for q in library.questions)]
    texts += [t for s in load_scenarios() for t in (s.title, s.system or "", *s.turns)]
    return [text for text in texts if text]


def test_the_roles_are_spread_over_nine_kinds():
    assert Counter(role_kinds(load_library()).values()) == KINDS  # 40 in all


@pytest.mark.parametrize("role", load_library().roles, ids=lambda role: role.name)
def test_a_role_has_a_description_a_rubric_and_five_prompts_of_12_to_35_words(role):
    assert role.description
    assert role.rubric
    assert [12 <= len(text.split()) <= 35 for text in role.system_prompts] == [True] * 5


@pytest.mark.parametrize("role", load_library().roles, ids=lambda role: role.name)
def test_each_prompt_names_its_role_so_that_each_sets_it_alone(role):
    parts = [rf"\b{part}(ing)?\b" for part in role.name.split("_")]
    for text in role.system_prompts:
        assert all(re.search(part, text.lower()) for part in parts), text


@pytest.mark.parametrize("role", load_library().roles, ids=lambda role: role.name)
def test_the_prompts_of_a_role_are_no_rewordings_of_each_other(role):
    """No two share half of their different words."""
    for one, other in combinations(map(set, map(words, role.system_prompts)), 2):
        assert len(one & other) / len(one | other) < 0.5


def test_no_text_is_there_twice():
    assert [text for text, times in Counter(shipped_texts()).items() if times > 1] == []


def test_the_default_is_set_by_no_prompt_and_by_four_neutral_ones():
    texts = load_library().default_prompts
    assert (texts[0], len(texts), sum("{model_name}" in text for text in texts)) == ("", 5, 1)
    assert not {word for text in texts for word in words(text)} & set(role_kinds(load_library()))


def test_forty_questions_of_8_to_16_words_cover_ten_topics_evenly():
    questions = load_library().questions
    assert [q.text for q in questions if not 8 <= len(q.text.split()) <= 16] == []
    assert sorted(Counter(q.topic for q in questions).values()) == [4] * 10


def test_no_question_names_a_role_or_a_machine():
    taken = {*role_kinds(load_library()), "ai", "model", "assistant", "program"}
    asked = {q.text: set(words(q.text)) & taken for q in load_library().questions}
    assert {text: named for text, named in asked.items() if named} == {}


def test_two_scenarios_of_four_short_turns_one_with_and_one_without_a_persona():
    ghost, plain = load_scenarios()
    assert "ghost" in (ghost.system or "")
    assert plain.system is None
    assert all(
        len(s.turns) == 4 and max(len(t.split()) for t in s.turns) < 25 for s in (ghost, plain)
    )


def test_a_scenario_opens_with_its_system_prompt_where_it_has_one():
    speakers = [[m.speaker for m in s.conversation.messages] for s in load_scenarios()]
    assert speakers == [["system", *["user"] * 4], ["user"] * 4]


@NEEDS_REFERENCE
def test_no_eight_words_in_a_row_are_shared_with_the_reference():
    ours = {gram for text in shipped_texts() for gram in _grams(text)}
    assert len(ours) > 2000  # the test would pass on no text at all
    assert [gram for text in _reference_texts() for gram in _grams(text) if gram in ours] == []


@NEEDS_REFERENCE
def test_no_sentence_is_shared_with_the_reference():
    theirs = {sentence for text in _reference_texts() for sentence in _sentences(text)}
    ours = [(text, sentence) for text in shipped_texts() for sentence in _sentences(text)]
    assert [text for text, sentence in ours if sentence in theirs] == []


def _sentences(text: str) -> list[tuple[str, ...]]:
    said = (tuple(words(part)) for part in re.split(r"[.!?;:]+", text))
    return [sentence for sentence in said if len(sentence) > 2]


def _grams(text: str) -> list[tuple[str, ...]]:
    said = words(text)
    return [tuple(said[n : n + 8]) for n in range(len(said) - 7)]


def _reference_texts():
    for path in sorted(REFERENCE.rglob("*.json*")):
        for line in path.read_text(encoding="utf-8").split(
            "\n" if path.suffix == ".jsonl" else "\0"
        ):
            if line.strip():
                yield from _strings(json.loads(line))


def _strings(value):
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _strings(item)
        case dict():
            for item in value.values():
                yield from _strings(item)
