"""Which roles are asked which questions, under which system prompts."""

import doctest
from collections import Counter
from dataclasses import replace

import pytest

from keel.errors import UsageError
from keel.prompts import (
    Library,
    PromptSettings,
    Question,
    Role,
    choosing,
    load_library,
    make_prompts,
    role_kinds,
    settings_for,
)


def role(name: str, kind: str = "") -> Role:
    return Role(name, tuple(f"{name} {n}" for n in range(5)), kind)


def library(roles: int = 2, questions: int = 7) -> Library:
    return Library(
        tuple(role(f"r{n}", kind="ab"[n % 2]) for n in range(roles)),
        ("", "You are {model_name}."),
        tuple(Question(f"why {n}?", topic="xyz"[n % 3]) for n in range(questions)),
    )


def made(settings: PromptSettings, of: Library | None = None):
    return make_prompts(of or library(), settings, model_name="Tiny")


def indices(prompts, role: str) -> list[tuple[int, int]]:
    """(question, system prompt) of each of a role's prompts, in order."""
    return [(p.question_index, p.system_index) for p in prompts if p.role == role]


def test_one_prompt_per_question_goes_through_all_five_in_turn():
    found = indices(made(PromptSettings(prompts_per_question=1)), "r1")
    assert found == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 0), (6, 1)]


def test_two_prompts_per_question_are_this_one_and_the_next():
    found = indices(made(PromptSettings(questions=5, prompts_per_question=2)), "r0")
    expected = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4), (4, 4), (4, 0)]
    assert found == expected


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_over_five_questions_each_system_prompt_is_used_equally_often(count):
    found = indices(made(PromptSettings(questions=5, prompts_per_question=count)), "r0")
    assert Counter(system for _, system in found) == dict.fromkeys(range(5), count)


def test_the_default_answers_each_question_under_each_of_its_prompts():
    found = indices(made(PromptSettings(questions=3, prompts_per_question=1)), "default")
    assert found == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_default_prompt_is_no_system_message_at_all(empty):
    prompts = made(PromptSettings(), replace(library(), default_prompts=(empty,)))
    assert {p.conversation.system for p in prompts if p.is_default} == {None}


def test_the_models_name_stands_in_the_default_prompts():
    systems = {p.conversation.system for p in made(PromptSettings()) if p.is_default}
    assert systems == {None, "You are Tiny."}


def test_braces_in_the_models_name_and_in_roles_are_left_alone():
    braced = Role("x", ("{a}", "{b", "}", "{{}}", "{model}"))
    prompts = make_prompts(
        replace(library(), roles=(braced,)), PromptSettings(questions=1), model_name="{b}"
    )
    assert [p.conversation.system for p in prompts][1:] == ["You are {b}.", *braced.system_prompts]


def test_a_prompt_holds_what_its_id_says():
    found = {p.id: p for p in made(PromptSettings())}
    prompt = found["r1/p3/q6"]
    assert (prompt.role, prompt.system_index, prompt.question_index) == ("r1", 3, 6)
    assert [m.content for m in prompt.conversation.messages] == ["r1 3", "why 6?"]


def test_ids_are_unique_and_as_many_as_roles_times_questions_times_prompts():
    prompts = make_prompts(load_library(), settings_for("small"), model_name="Tiny")
    # 40 roles × 20 questions × 2 prompts, and the default's 20 × 5
    assert len({p.id for p in prompts}) == len(prompts) == 40 * 20 * 2 + 20 * 5


def test_the_paper_scale_asks_everything():
    # 2 roles × 7 questions × 5 prompts, and the default's 7 × 2
    assert len(made(settings_for("paper"))) == 2 * 7 * 5 + 7 * 2


@pytest.mark.parametrize("seed", [0, 1])
def test_roles_are_dealt_from_every_kind_in_turn(seed):
    # 24 of 275: two of each of ten kinds are 20; the first four kinds give a third.
    kinds = role_kinds(load_library())
    settings = replace(settings_for("smoke"), seed=seed)
    chosen = {p.role for p in made(settings, load_library()) if not p.is_default}
    threes = dict.fromkeys(("professional", "everyday", "creative", "social"), 3)
    assert Counter(kinds[name] for name in chosen) == dict.fromkeys(kinds.values(), 2) | threes


def test_the_demo_asks_roles_from_the_everyday_to_the_fantastical():
    chosen = {p.role for p in made(settings_for("smoke"), load_library())}
    assert {"judge", "statistician", "narrator", "forest_spirit", "ghost"} < chosen


def test_questions_are_dealt_from_every_topic_in_turn():
    asked = made(PromptSettings(questions=3), library(questions=30))
    texts = {p.conversation.messages[-1].content for p in asked}
    topics = {q.topic for q in library(questions=30).questions if q.text in texts}
    assert (len(texts), topics) == (3, {"x", "y", "z"})


def test_questions_are_numbered_within_the_run():
    asked = made(PromptSettings(questions=4), library(questions=30))
    assert {p.question_index for p in asked} == {0, 1, 2, 3}


def test_the_same_seed_chooses_the_same_and_another_seed_another():
    few = PromptSettings(roles=24, questions=12)
    same, again, other = (made(replace(few, seed=seed), load_library()) for seed in (3, 3, 4))
    assert same == again
    assert {p.role for p in same} != {p.role for p in other}


def test_the_choice_is_the_same_on_every_machine_and_in_every_version():
    """Pinned: another choice would make runs incomparable that say the same of themselves."""
    one_each = PromptSettings(roles=5, questions=1, prompts_per_question=1)
    chosen = [p.role for p in made(one_each, library(30)) if not p.is_default]
    assert chosen == ["r4", "r16", "r19", "r20", "r27"]


def test_a_larger_choice_holds_the_smaller_one():
    few, more = (
        {p.role for p in made(PromptSettings(roles=count), load_library())} for count in (9, 30)
    )
    assert few < more


def test_two_questions_that_read_the_same_are_both_asked():
    """The reference's file has such a pair; by text they would have become one."""
    twice = replace(library(), questions=(Question("why?"), Question("why?"), Question("how?")))
    prompts = made(PromptSettings(questions=3), twice)
    assert {p.question_index for p in prompts} == {0, 1, 2}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"roles": 0}, "roles is 0, expected 1 or more"),
        ({"questions": -1}, "questions is -1, expected 1 or more"),
        ({"prompts_per_question": 0}, "prompts_per_question is 0, expected 1 to 5"),
        ({"prompts_per_question": 6}, "prompts_per_question is 6, expected 1 to 5"),
    ],
)
def test_counts_that_make_no_sense_are_refused(settings, complaint):
    with pytest.raises(UsageError, match=complaint):
        PromptSettings(**settings)


def test_more_roles_than_there_are_is_an_error_that_says_how_many_there_are():
    with pytest.raises(UsageError, match="3 roles are asked for, but the library has 2; ask for 2"):
        made(PromptSettings(roles=3))


@pytest.mark.parametrize("empty", ["questions", "default_prompts"])
def test_nothing_to_ask_is_an_error_not_an_empty_run(empty):
    with pytest.raises(UsageError, match="no questions or no default prompts"):
        made(PromptSettings(), replace(library(), **{empty: ()}))


def test_an_unknown_scale_is_refused():
    with pytest.raises(UsageError, match="'huge', expected smoke, small, paper"):
        settings_for("huge")


def test_the_example_in_the_docs_runs():
    found = doctest.testmod(choosing)
    assert (found.failed, found.attempted) == (0, 7)
