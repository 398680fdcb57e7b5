"""A role answers a question, then gets a request."""

from collections import Counter

import numpy as np
import pytest

from keel.errors import UsageError
from keel.evaluate import Attack, drift_harm_suite
from keel.evaluate.evaluation import openings
from keel.pipeline import open_suite
from keel.prompts import read_rubrics
from keel.statistics import Clusters, clustered_correlation
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


def test_so_many_requests_follow_every_first_answer_and_more_hold_the_items_of_fewer():
    """3 roles × 2 questions, each followed by 1, 3 and all 4 requests."""
    made = [drift_harm_suite(ROLES, QUESTIONS, REQUESTS, requests_per_answer=n) for n in (1, 3, 4)]
    for suite, count in zip(made, (1, 3, 4), strict=True):
        after = Counter((i.factors["role"], i.factors["question"]) for i in suite.items)
        assert len(after) == 6
        assert set(after.values()) == {count}
    ids = [{item.id for item in suite.items} for suite in made]
    assert ids[0] < ids[1] < ids[2]


@pytest.mark.parametrize("count", [0, 5])
def test_more_requests_than_there_are_are_refused(count):
    with pytest.raises(UsageError, match=f"is {count}, expected 1 to 4"):
        drift_harm_suite(ROLES, QUESTIONS, REQUESTS, requests_per_answer=count)


def test_a_suite_without_first_answers_refuses_requests_for_each():
    with pytest.raises(UsageError, match="--requests-per-answer is for drift-harm"):
        open_suite("jailbreak", requests_per_answer=2)


def test_roles_and_requests_are_the_units_of_the_correlation_not_their_pairs():
    """Levels and labels depend on the role alone: the interval is that of 12 roles, however many
    pairs there are. With r of .6 over 12 roles it reaches below .1; over 720 pairs it would not."""
    chance = np.random.default_rng(3)
    roles = {f"role {n}": ["You are one."] for n in range(12)}
    requests = [Attack(f"r{n}", "", f"Do {n}.", "mild", "No.") for n in range(12)]
    suite = drift_harm_suite(roles, [f"q{n}?" for n in range(5)], requests, requests_per_answer=12)
    drawn = chance.standard_normal((2, 12))
    level = dict(zip(roles, drawn[0], strict=True))
    harm = dict(zip(roles, 0.6 * drawn[0] + 0.8 * drawn[1], strict=True))
    x_N, y_N = (np.array([of[i.factors["role"]] for i in suite.items]) for of in (level, harm))
    assert len(suite.items) == 720
    found = clustered_correlation(x_N, y_N, Clusters.of([item.factors for item in suite.items]))
    assert found.high - found.low > 0.5


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
