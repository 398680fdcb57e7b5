"""The library that ships: complete, varied, of the lengths it promises, and nobody else's words."""

import json
import re
from collections import Counter

import pytest

from keel.prompts import (
    find_faults,
    load_introspective_questions,
    load_library,
    load_prefills,
    load_red_team,
    load_scenarios,
    load_susceptible_roles,
    load_user_lines,
    load_user_personas,
    role_kinds,
    shipped_counts,
    shipped_texts,
)
from keel.prompts.checking import words
from tests.prompts.reference import NEEDS_REFERENCE, REFERENCE, reference_texts

KINDS = {
    "professional": 91,
    "everyday": 37,
    "social": 33,
    "mythical": 29,
    "creative": 24,
    "adversarial": 20,
    "adventurer": 15,
    "natural": 12,
    "collective": 7,
    "machine": 7,
}
SHARED_WORDS = 7
"""In a row: six say little yet, as in `in the middle of the night`."""


def test_everything_is_there_in_full():
    assert shipped_counts() == {
        "roles": 275,
        "role_prompts": 1375,  # five each
        "default_prompts": 5,
        "traits": 240,
        "trait_pairs": 1200,  # five each
        "questions": 240,
        "scenarios": 5,
        "susceptible_roles": 50,
        "susceptible_role_prompts": 200,  # four each
        "introspective_questions": 5,
        "prefills": 24,
        "user_personas": 20,
        "user_topics": 400,  # twenty each
        "user_lines": 162,
        "red_team_personas": 60,
        "red_team_requests": 40,
    }


def test_the_roles_are_spread_over_ten_kinds():
    assert Counter(role_kinds(load_library()).values()) == KINDS  # 275 in all


def test_the_library_has_no_fault_by_its_own_measure():
    """Lengths, rubrics, kinds, topics, roles named by each prompt, no rewordings, even pairs."""
    assert find_faults(load_library()) == []


def test_no_text_is_there_twice():
    counts = Counter(" ".join(words(placed.text)) for placed in shipped_texts())
    assert [text for text, times in counts.items() if times > 1] == []


def test_a_traits_rubric_says_what_scores_100_and_what_scores_0():
    for trait in load_library().traits:
        assert re.search(r"\b100\b", trait.rubric), trait.name
        assert re.search(r"\b0\b", trait.rubric), trait.name


def test_the_default_is_set_by_no_prompt_and_by_four_neutral_ones():
    texts = load_library().default_prompts
    assert (texts[0], len(texts), sum("{model_name}" in text for text in texts)) == ("", 5, 1)
    assert not {word for text in texts for word in words(text)} & set(role_kinds(load_library()))


def test_240_questions_cover_ten_topics_evenly():
    topics = Counter(question.topic for question in load_library().questions)
    assert sorted(topics.values()) == [24] * 10


def test_no_question_names_a_role_or_a_machine():
    taken = {*role_kinds(load_library()), "ai", "model", "assistant", "program"}
    asked = {q.text: set(words(q.text)) & taken for q in load_library().questions}
    assert {text: named for text, named in asked.items() if named} == {}


def test_scenarios_are_of_four_short_turns_with_and_without_a_persona():
    scenarios = load_scenarios()
    assert "ghost" in (scenarios[0].system or "")  # the demo's
    assert {s.system is None for s in scenarios} == {True, False}
    for scenario in scenarios:
        assert len(scenario.turns) == 4, scenario.id
        assert max(len(turn.split()) for turn in scenario.turns) < 25, scenario.id


def test_a_scenario_opens_with_its_system_prompt_where_it_has_one():
    for scenario in load_scenarios():
        speakers = [message.speaker for message in scenario.conversation.messages]
        assert speakers == ["system"] * (scenario.system is not None) + ["user"] * 4


def test_susceptible_roles_are_set_four_ways_in_12_to_35_words():
    texts = [t for role in load_susceptible_roles() for t in role.system_prompts]
    assert {len(role.system_prompts) for role in load_susceptible_roles()} == {4}
    assert [text for text in texts if not 12 <= len(text.split()) <= 35] == []


def test_half_of_the_prefills_begin_a_purpose_and_half_a_trait():
    assert Counter(p.kind for p in load_prefills()) == {"purpose": 12, "traits": 12}


def test_introspective_questions_ask_the_one_who_answers():
    assert all("you" in words(asked.text) for asked in load_introspective_questions())


def test_five_users_in_each_of_four_domains_bring_twenty_topics_each():
    users = load_user_personas()
    assert Counter(u.domain for u in users) == dict.fromkeys(
        ("coding", "writing", "therapy", "philosophy"), 5
    )
    assert {len(u.topics) for u in users} == {20}


def test_users_of_each_domain_have_24_lines_to_go_on_with_and_four_to_begin():
    lines = load_user_lines()
    begun = Counter(line.domain for line in lines if line.pull == "opening")
    gone_on = Counter(line.domain for line in lines if line.pull != "opening")
    assert begun == dict.fromkeys(("coding", "writing", "therapy", "philosophy"), 4)
    assert min(gone_on.values()) >= 24
    assert gone_on["neutral"] >= 24


def test_each_persona_of_the_red_team_meets_each_request():
    red_team = load_red_team()
    assert len({case.id for case in red_team.cases}) == 60 * 40
    assert set(Counter(asked.category for asked in red_team.requests).values()) == {5}
    assert all(case.good_answer for case in red_team.cases)


def test_a_red_team_case_is_a_persona_and_a_request_to_be_answered():
    case = load_red_team().cases[41]  # the second persona's second request
    assert case.id == "persona_02/fictional_2"
    assert [m.speaker for m in case.conversation.messages] == ["system", "user"]
    assert case.conversation.messages[-1].content == case.request


@pytest.mark.parametrize(
    ("file", "count", "ours"),
    [
        ("role_list.json", 275, lambda: {role.name for role in load_library().roles}),
        ("trait_list.json", 240, lambda: {trait.name for trait in load_library().traits}),
    ],
)
@NEEDS_REFERENCE
def test_names_follow_the_references_but_for_five(file, count, ours):
    """Names are facts; where ours says `tree` otherwise, it says `forest_spirit`."""
    theirs = set(json.loads((REFERENCE / file).read_text(encoding="utf-8")))
    assert len(theirs) == count
    assert len(theirs - ours()) <= 5


@NEEDS_REFERENCE
def test_no_seven_words_in_a_row_are_shared_with_the_reference():
    ours = {gram: placed.location for placed in shipped_texts() for gram in _grams(placed.text)}
    assert len(ours) > 50_000  # the test would pass on no text at all
    shared = {gram for text in reference_texts() for gram in _grams(text) if gram in ours}
    assert {ours[gram]: " ".join(gram) for gram in shared} == {}


@NEEDS_REFERENCE
def test_no_sentence_is_shared_with_the_reference():
    """Of more than four words: everybody asks `where do I start?`."""
    theirs = {sentence for text in reference_texts() for sentence in _sentences(text)}
    ours = [(p.location, sentence) for p in shipped_texts() for sentence in _sentences(p.text)]
    assert len(ours) > 5_000
    assert [place for place, sentence in ours if sentence in theirs] == []


def _sentences(text: str) -> list[tuple[str, ...]]:
    said = (tuple(words(part)) for part in re.split(r"[.!?;:]+", text))
    return [sentence for sentence in said if len(sentence) > 4]


def _grams(text: str) -> list[tuple[str, ...]]:
    said = words(text)
    return [tuple(said[n : n + SHARED_WORDS]) for n in range(len(said) - SHARED_WORDS + 1)]
