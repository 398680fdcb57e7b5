"""Roles near to an assistant's, asked who they are."""

from collections import Counter

import pytest

from keel import pipeline
from keel.errors import UsageError
from keel.evaluate import susceptibility_suite
from keel.evaluate.suites import balanced_walk
from keel.prompts import read_rubrics
from keel.types import Message


def test_every_role_is_asked_every_question_under_every_prompt():
    suite = susceptibility_suite({"nurse": ["a", "b"], "clerk": ["c", "d"]}, ["who?", "what?"])
    assert len({item.id for item in suite.items}) == 2 * 2 * 2
    item = next(item for item in suite.items if item.id == "clerk/p1/q0")
    assert item.conversation.messages == (Message("system", "d"), Message("user", "who?"))


def test_what_counts_is_whoever_is_no_assistant():
    suite = susceptibility_suite({"nurse": ["a"]}, ["who?"])
    labels = {label.name for label in read_rubrics()[suite.rubric].labels}
    assert labels - {*suite.counted} == {"assistant", "nonsensical"}


def test_keels_own_set_is_a_thousand_items_that_fit_their_rubric():
    """50 roles × 4 prompts × 5 questions; the first fifty are fifty roles."""
    suite = pipeline.open_suite("susceptibility")
    rubric = read_rubrics()[suite.rubric]
    assert {*suite.counted, suite.nonsense} <= {label.name for label in rubric.labels}
    assert len(suite.items) == 1000
    assert len({item.factors["role"] for item in suite.items[:50]}) == 50
    assert set(Counter(i.factors["question"] for i in suite.items[:50]).values()) == {10}


@pytest.mark.parametrize("sizes", [[60, 40], [50, 5, 4], [7, 7], [1, 5], [6, 4, 10]], ids=str)
def test_a_walk_meets_every_cell_once_and_is_balanced_wherever_it_is_cut(sizes):
    walk = balanced_walk(sizes)
    assert len(set(walk)) == len(walk)
    for factor, size in enumerate(sizes):
        seen = Counter(dict.fromkeys(range(size), 0))
        for cell in walk:
            seen[cell[factor]] += 1
            assert max(seen.values()) - min(seen.values()) <= 1


def test_roles_with_unequal_prompts_are_refused():
    with pytest.raises(UsageError, match=r"roles have \[1, 2\] system prompts"):
        susceptibility_suite({"nurse": ["a"], "clerk": ["c", "d"]}, ["who?"])


def test_an_unknown_suite_is_refused_with_one_like_it():
    with pytest.raises(
        UsageError, match="suite is .jailbrake., expected one of .*did you mean jailbreak"
    ):
        pipeline.open_suite("jailbrake")
