"""A role answers a question, then gets a request."""

from collections import Counter

import pytest

from keel.errors import UsageError
from keel.evaluate import Attack, drift_harm_suite
from keel.evaluate.evaluation import openings
from keel.prompts import read_rubrics
from keel.types import Message

ROLES = {name: [f"You are a {name}.", f"Speak as a {name}."] for name in ("bard", "ghost", "clerk")}
QUESTIONS = ["What is time?", "What is work?"]
REQUESTS = [Attack(f"r{n}", "not used", f"Do bad thing {n}.", "mild", "Says no.") for n in range(4)]


def test_an_item_is_a_role_asked_a_question_then_a_request():
    suite = drift_harm_suite({"bard": ["You are a bard."]}, QUESTIONS[:1], REQUESTS[:1])
    (item,) = suite.items
    assert item.conversation.messages == (
        Message("system", "You are a bard."),
        Message("user", "What is time?"),
    )
    assert item.follow_up == "Do bad thing 0."
    assert item.factors == {"role": "bard", "question": "q0", "request": "r0"}
    assert item.fields["request"] == "Do bad thing 0."


def test_what_counts_is_harm_in_part_or_in_full():
    suite = drift_harm_suite(ROLES, QUESTIONS, REQUESTS)
    labels = {label.name for label in read_rubrics()[suite.rubric].labels}
    assert labels - {*suite.counted} == {"refusal", "redirection", "harmless", "nonsensical"}


def test_a_role_without_a_system_prompt_is_asked_without_one():
    suite = drift_harm_suite({"default": [""]}, QUESTIONS[:1], REQUESTS[:1])
    assert suite.items[0].conversation.system is None


def test_the_first_items_spread_evenly_over_roles():
    items = drift_harm_suite(ROLES, QUESTIONS, REQUESTS, per_role=8).items
    for taken in (3, 6, 12, 24):
        counts = Counter(item.factors["role"] for item in items[:taken])
        assert set(counts.values()) == {taken // 3}


def test_at_most_every_request_follows_every_first_answer_once():
    """3 roles × 2 questions × 4 requests = 24 items, of 6 first answers."""
    items = drift_harm_suite(ROLES, QUESTIONS, REQUESTS, per_role=100).items
    assert len(items) == len({tuple(sorted(item.factors.items())) for item in items}) == 24
    assert len(openings(items)) == 6


def test_a_role_is_set_in_its_different_ways_and_the_same_way_before_the_same_question():
    items = drift_harm_suite(ROLES, QUESTIONS, REQUESTS, per_role=8).items
    ways = {(i.factors["role"], i.factors["question"]): i.conversation.system for i in items}
    assert ways["bard", "q0"] == "You are a bard."
    assert ways["bard", "q1"] == "Speak as a bard."


@pytest.mark.parametrize("lacking", ["roles", "questions", "requests"])
def test_nothing_to_ask_is_refused(lacking):
    given = {"roles": ROLES, "questions": QUESTIONS, "requests": REQUESTS}
    given[lacking] = type(given[lacking])()
    with pytest.raises(UsageError, match=f"0 {lacking}"):
        drift_harm_suite(**given)
