"""Beginnings of sentences, each finished many times."""

import pytest

from keel.errors import UsageError
from keel.evaluate import base_purpose_suite, base_traits_suite
from keel.types import Sampling

PREFILLS = ["My job is to", "I exist to"]


def test_an_item_is_the_beginning_alone_spoken_by_the_assistant():
    item = base_purpose_suite(PREFILLS).items[0]
    (message,) = item.conversation.messages
    assert (message.speaker, message.content, message.token_ids) == ("assistant", PREFILLS[0], None)
    assert item.factors == item.fields == {"prefill": PREFILLS[0]}


def test_every_prefill_is_finished_as_often_however_many_items_are_taken():
    items = base_traits_suite(PREFILLS, completions=3).items
    assert [i.id for i in items] == [f"traits/{p}/{k}" for k in range(3) for p in range(2)]
    for taken in (2, 4, 6):
        levels = [item.factors["prefill"] for item in items[:taken]]
        assert levels.count(PREFILLS[0]) == levels.count(PREFILLS[1]) == taken // 2


def test_each_kind_has_its_own_rubric():
    assert base_purpose_suite(PREFILLS).rubric == "purpose"
    assert base_traits_suite(PREFILLS).rubric == "self_description"


def test_what_counts_are_the_purposes_and_qualities_that_the_assistant_has():
    """Lu et al. 2026, §3.2.2: supportive and professional purposes; warmth and reliability."""
    assert base_purpose_suite(PREFILLS).counted == ("care", "teaching", "service", "business")
    assert base_traits_suite(PREFILLS).counted == ("warmth", "reliability")


def test_sampling_can_be_chosen():
    sampling = Sampling(max_new_tokens=7, temperature=1.0)
    assert base_purpose_suite(PREFILLS, sampling=sampling).sampling == sampling


@pytest.mark.parametrize(("prefills", "completions"), [([], 1), (PREFILLS, 0)])
def test_nothing_to_ask_is_refused(prefills, completions):
    with pytest.raises(UsageError, match="expected one or more of both"):
        base_purpose_suite(prefills, completions=completions)
