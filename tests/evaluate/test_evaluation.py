"""Items answered under arms: the same draws for each, what is recorded, and what is shared."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest

from keel.errors import NotAppliedError
from keel.evaluate import (
    Answer,
    AnsweredBatch,
    Arm,
    EngineAnswerer,
    Instruction,
    answer_first,
    answer_items,
    batches_of,
    cases_of,
    first_items,
    plan_answers,
)
from keel.testing import FakeEngine
from keel.types import Answered, Conversation, FirstAnswer, Item, Message, ModelIdentity
from tests.evaluate.small import SAMPLING, capped, evaluation, item, none, pushed, suite


def answers_of(engine, items, arm, *, seed=0, done=(), first=()):
    answerer = EngineAnswerer(engine, engine.axis)
    plan = plan_answers(answerer, items, SAMPLING)
    asked = evaluation(answerer, items, seed=seed)
    return list(answer_items(asked, arm, plan, done=done, first=first))


def by_item(batches):
    return {answer.item_id: answer for batch in batches for answer in batch.answers}


def test_arms_that_do_nothing_answer_alike_to_the_letter():
    """The same batches, the same seeds: a second arm without interventions changes no word."""
    engine, items = FakeEngine(), suite().items
    plain = by_item(answers_of(engine, items, none()))
    other = by_item(answers_of(engine, items, Arm("other")))
    assert {n: a.text for n, a in other.items()} == {
        n: a.text for n, a in plain.items() if not n.startswith("alone")
    }


def test_baselines_are_answered_unsteered_only_and_in_batches_of_their_own():
    engine, items = FakeEngine(), suite().items
    answerer = EngineAnswerer(engine, engine.axis)
    plan = plan_answers(answerer, items, SAMPLING)
    kinds = [{items[place].is_baseline for place in batch} for batch in plan.batches]
    assert all(len(kind) == 1 for kind in kinds)
    assert len(batches_of(plan, items, "none")) == len(plan.batches)
    assert set(batches_of(plan, items, "capped")) == {
        n for n, kind in enumerate(kinds) if kind == {False}
    }


def test_a_batch_answers_the_same_whatever_was_done_before():
    engine, items = FakeEngine(), suite().items
    whole = answers_of(engine, items, none())
    rest = answers_of(engine, items, none(), done={0})
    assert rest == whole[1:]


def test_another_seed_draws_otherwise():
    engine, items = FakeEngine(), suite().items
    assert by_item(answers_of(engine, items, none(), seed=1)) != by_item(
        answers_of(engine, items, none())
    )


def test_projection_and_perplexity_are_those_of_the_answer():
    """Planted: persona 0 projects to 0, persona 1 to 3 at layer 2; every token's log-likelihood
    is −1, so perplexity is e."""
    engine = FakeEngine(noise=0.0)
    found = by_item(answers_of(engine, suite().items, none()))
    assert found["ghost/0"].projection == pytest.approx(0, abs=1e-5)
    assert found["clerk/0"].projection == pytest.approx(3, abs=1e-5)
    assert found["clerk/0"].perplexity == pytest.approx(math.e)


def test_perplexity_is_read_without_the_arms_own_instruction():
    """The yardstick is one for all arms: the unsteered model, and the item as it is."""
    engine = FakeEngine()
    read = []
    original = engine.read
    engine.read = lambda talks, **more: read.extend(talks) or original(talks, **more)
    answers_of(engine, [item("clerk", 0)], Arm("prompt", instruction=Instruction("Be good.")))
    assert all("Be good." not in m.content for talk in read for m in talk.messages)


def test_a_cap_says_how_often_it_fired_and_a_step_does_not():
    engine, items = FakeEngine(), suite().items
    assert all(batch.firing.rate > 0 for batch in answers_of(engine, items, capped(engine)))
    assert all(batch.firing is None for batch in answers_of(engine, items, pushed(engine)))
    assert all(batch.firing is None for batch in answers_of(engine, items, none()))


def test_an_engine_that_ignores_the_arm_is_not_believed():
    engine = FakeEngine(unreached_layers=range(4))
    with pytest.raises(NotAppliedError, match="saw no token"):
        answers_of(engine, suite().items, capped(engine))


def test_an_empty_answer_has_no_place_and_no_perplexity():
    engine = FakeEngine(reply=lambda *_: "")
    answer = by_item(answers_of(engine, [item("clerk", 0)], none()))["clerk/0"]
    assert (answer.tokens, answer.projection, answer.perplexity) == (0, None, None)


def test_first_turns_are_answered_once_for_all_items_that_begin_alike():
    """Three requests after the same beginning: one first answer, heard by all three."""
    engine = FakeEngine()
    start = item("ghost", 0)
    items = [replace(start, id=f"i{n}", follow_up=f"do thing {n}") for n in range(3)]
    answerer = EngineAnswerer(engine, engine.axis)
    plan = plan_answers(answerer, items, SAMPLING)
    (batch,) = answer_first(evaluation(answerer, items), none(), plan)
    (first,) = batch.answers
    assert first.item_id == "i0"
    found = by_item(answers_of(engine, items, none(), first=[first]))
    assert {a.first_text for a in found.values()} == {first.text}
    assert {a.first_projection for a in found.values()} == {first.projection}
    assert len({a.text for a in found.values()}) == 3


def test_the_second_turn_is_asked_in_the_arms_own_history():
    engine, seen = FakeEngine(), []
    original = engine.generate
    engine.generate = lambda prompts, *a, **more: (
        seen.extend(prompts) or original(prompts, *a, **more)
    )
    items = [replace(item("ghost", 0), follow_up="and now?")]
    answerer = EngineAnswerer(engine, engine.axis)
    plan = plan_answers(answerer, items, SAMPLING)
    (batch,) = answer_first(evaluation(answerer, items), none(), plan)
    answers_of(engine, items, none(), first=batch.answers)
    said = seen[-1].conversation.messages
    assert [m.speaker for m in said] == ["system", "user", "assistant", "user"]
    assert (said[2].content, said[3].content) == (batch.answers[0].text, "and now?")
    assert said[2].token_ids == batch.answers[0].token_ids


@dataclass
class Listening:
    """Answers "yes", one item to a batch, and remembers what it was asked to plan and to draw."""

    planned: list[tuple[list[Conversation], int]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    identity = ModelIdentity("listening", 0, 0)
    can_be_timed = True

    def fingerprint(self, arm):
        return arm.fingerprint

    def plan(self, conversations, sampling):
        self.planned.append((list(conversations), sampling.max_new_tokens))
        return tuple((place,) for place in range(len(conversations)))

    def answer(self, conversations, arm, sampling, *, seed, on_answer):
        self.seeds.append(seed)
        return AnsweredBatch(tuple(Answer("yes", 1, "stop") for _ in conversations))

    def perplexities(self, conversations):
        return [None] * len(conversations)


def test_second_turns_are_planned_as_if_first_answers_were_as_long_as_they_may_be():
    """Of 8 tokens: 16 for both answers, and the request is counted among what is read."""
    listening = Listening()
    plan_answers(listening, [replace(item("ghost", 0), follow_up="and now?")], SAMPLING)
    (second, longest), (first, long) = listening.planned
    assert (longest, long) == (16, 8)
    assert [m.speaker for m in second[0].messages] == ["system", "user", "assistant", "user"]
    assert second[0].messages[-1].content == "and now?"
    assert first == [replace(item("ghost", 0).conversation, id="ghost/0")]


def test_every_batch_has_a_seed_of_its_own_and_the_same_under_every_arm():
    """First turns too: else two batches of the same words would answer alike."""
    items = [replace(item("ghost", n), follow_up="and now?") for n in range(3)]
    found = []
    for arm in (none(), Arm("other")):
        listening = Listening()
        asked, plan = evaluation(listening, items), plan_answers(listening, items, SAMPLING)
        batches = list(answer_first(asked, arm, plan))
        first = [answer for batch in batches for answer in batch.answers]
        list(answer_items(asked, arm, plan, first=first))
        found.append(listening.seeds)
    assert found[0] == found[1]
    assert len(set(found[0])) == 6


def test_first_turns_that_were_answered_are_not_answered_again():
    items = [replace(item("ghost", n), follow_up="and now?") for n in range(3)]
    listening = Listening()
    plan = plan_answers(listening, items, SAMPLING)
    rest = answer_first(evaluation(listening, items), none(), plan, done={0, 2})
    assert [batch.number for batch in rest] == [1]


def test_each_second_turn_follows_its_own_first_whatever_order_those_come_in():
    """After a kill what was kept is read first: the firsts come as 2, 0, 1."""
    items = [replace(item("ghost", n), follow_up="and now?") for n in range(3)]
    answered = [FirstAnswer(f"ghost/{n}", f"first {n}", (n,), float(n)) for n in (2, 0, 1)]
    found = by_item(answers_of(FakeEngine(), items, none(), first=answered))
    assert {n: a.first_text for n, a in found.items()} == {
        f"ghost/{n}": f"first {n}" for n in range(3)
    }


def test_the_judge_sees_the_first_turn_that_was_answered():
    asked = replace(item("ghost", 0), follow_up="and now?")
    answer = Answered("ghost/0", "none", "no", 1, "stop", first_text="a ghost I am")
    (case,) = cases_of([asked], {"none": [answer]})
    told = [m.content for m in case.conversation.messages[2:]]
    assert told == ["a ghost I am", "and now?", "no"]


def test_the_same_words_to_two_items_are_two_cases():
    """Verdicts are kept by case: an item of its own has a verdict of its own."""
    first = item("ghost", 0)
    twin = replace(first, id="twin", fields={"good_answer": "Another."})
    answers = [Answered(one.id, "none", "no", 1, "stop") for one in (first, twin)]
    assert len(cases_of([first, twin], {"none": answers})) == 2


def test_the_same_words_are_one_case_and_the_judge_sees_no_arm():
    engine, items = FakeEngine(), suite().items
    plain = by_item(answers_of(engine, items, none()))
    other = by_item(answers_of(engine, items, Arm("prompt", instruction=Instruction("Be good."))))
    same = {n: replace(a, arm="twin") for n, a in plain.items()}
    cases = cases_of(items, {"none": list(plain.values()), "twin": list(same.values())})
    assert len(cases) == len(items)
    told = cases_of(items, {"prompt": list(other.values())})
    assert all("Be good." not in m.content for c in told for m in c.conversation.messages)


def test_what_goes_on_with_the_assistants_words_is_one_turn_to_the_judge():
    engine = FakeEngine(reply=lambda *_: " help people")
    start = Item("p", Conversation((Message("assistant", "I exist to"),)))
    found = by_item(answers_of(engine, [start], none()))
    (case,) = cases_of([start], {"none": list(found.values())})
    (message,) = case.conversation.messages
    assert message.content.startswith("I exist to")
    assert message.content.endswith("help people")


def test_the_first_items_bring_the_baselines_of_their_requests():
    """Of ghost 0 and 1 first: their two requests alone, no others."""
    taken = first_items(suite(), 2)
    assert [i.id for i in taken.items] == ["ghost/0", "ghost/1", "alone/0", "alone/1"]
