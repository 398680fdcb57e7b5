"""Answers every item under every arm, batch by batch. Knows nothing of folders and judges.

The plan of batches is fixed for all arms, and a batch draws with the same seed under each: what
differs between two arms is what the arms do, not luck.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from keel.evaluate.answering import Answerer, Replies, Reply
from keel.evaluate.arms import Arm
from keel.seeds import seed_of
from keel.steering import Firing
from keel.types import (
    UNSTEERED,
    Answered,
    Case,
    Conversation,
    FirstAnswer,
    Item,
    Sampling,
    Suite,
)


@dataclass(frozen=True)
class AnsweringPlan:
    """Batches, the same under every arm."""

    batches: tuple[tuple[int, ...], ...]
    """Places of items; a batch holds baseline items only, or none."""
    first: tuple[tuple[int, ...], ...] = ()
    """Places in `openings` of first turns that are answered together."""


@dataclass(frozen=True)
class AnsweredItems:
    """One batch of items, complete: the unit that is kept or done again."""

    number: int
    answers: tuple[Answered, ...]
    firing: Firing | None


@dataclass(frozen=True)
class AnsweredFirst:
    """One batch of first turns, complete."""

    number: int
    answers: tuple[FirstAnswer, ...]


def first_items(suite: Suite, limit: int | None) -> Suite:
    """The suite with its first so many items, and the baselines that share their levels."""
    if limit is None:
        return suite
    taken = [item for item in suite.items if not item.is_baseline][:limit]
    levels = {pair for item in taken for pair in item.factors.items()}
    bare = [one for one in suite.items if one.is_baseline and levels >= set(one.factors.items())]
    return replace(suite, items=(*taken, *bare))


def plan_answers(answerer: Answerer, items: Sequence[Item], sampling: Sampling) -> AnsweringPlan:
    """Batches that fit in memory under any arm.

    A second turn's length is not known before the first is answered, and differs between arms;
    so its batches are planned as if first answers were as long as they may be.
    """
    asked = [_opening(item) if item.follow_up else item.conversation for item in items]
    longest = replace(sampling, max_new_tokens=2 * sampling.max_new_tokens)
    groups = (
        [n for n, item in enumerate(items) if not item.is_baseline],
        [n for n, item in enumerate(items) if item.is_baseline],
    )
    batches: list[tuple[int, ...]] = []
    for places in filter(None, groups):
        room = longest if any(items[n].follow_up for n in places) else sampling
        planned = answerer.plan([asked[n] for n in places], room)
        batches += [tuple(places[n] for n in batch) for batch in planned]
    first = [item.conversation for item in openings(items)]
    return AnsweringPlan(tuple(batches), answerer.plan(first, sampling) if first else ())


def openings(items: Sequence[Item]) -> list[Item]:
    """Of items with a second turn, the first one with each conversation to begin with."""
    found: dict[str, Item] = {}
    for item in items:
        if item.follow_up:
            found.setdefault(_key(item.conversation), item)
    return list(found.values())


def batches_of(plan: AnsweringPlan, items: Sequence[Item], arm: str) -> list[int]:
    """Numbers of the batches that an arm has to answer: baselines are unsteered only."""
    return [
        number
        for number, places in enumerate(plan.batches)
        if arm == UNSTEERED or not items[places[0]].is_baseline
    ]


def answer_first(
    answerer: Answerer,
    items: Sequence[Item],
    arm: Arm,
    *,
    plan: AnsweringPlan,
    sampling: Sampling,
    seed: int,
    done: Collection[int] = (),
    on_reply: Callable[[], None] = lambda: None,
) -> Iterator[AnsweredFirst]:
    """First turns, each conversation once, in the planned order, without batches done before."""
    opened = openings(items)
    for number, places in enumerate(plan.first):
        if number in done:
            continue
        asked = [opened[place].conversation for place in places]
        draw = _seed(seed, "first", number)
        found = answerer.answer(asked, arm, sampling, seed=draw, on_reply=on_reply)
        answers = tuple(
            FirstAnswer(opened[place].id, reply.text, reply.token_ids, reply.projection)
            for place, reply in zip(places, found.replies, strict=True)
        )
        yield AnsweredFirst(number, answers)


def answer_items(
    answerer: Answerer,
    items: Sequence[Item],
    arm: Arm,
    *,
    plan: AnsweringPlan,
    sampling: Sampling,
    seed: int,
    done: Collection[int] = (),
    first: Sequence[FirstAnswer] = (),
    on_reply: Callable[[], None] = lambda: None,
) -> Iterator[AnsweredItems]:
    """Items in the planned order, without batches done before.

    What a batch answers depends on the seed, its number, its items and the arm alone. `first`
    holds the arm's answers to first turns, where items have two.
    """
    known = {answer.item_id: answer for answer in first}
    opened = {_key(item.conversation): known[item.id] for item in openings(items)}
    for number in batches_of(plan, items, arm.name):
        if number in done:
            continue
        batch = [items[place] for place in plan.batches[number]]
        firsts = [opened.get(_key(one.conversation)) if one.follow_up else None for one in batch]
        asked = [asked_of(item, one) for item, one in zip(batch, firsts, strict=True)]
        draw = _seed(seed, "items", number)
        found = answerer.answer(asked, arm, sampling, seed=draw, on_reply=on_reply)
        read = answerer.perplexities(
            [c.with_reply(r.text, r.token_ids) for c, r in zip(asked, found.replies, strict=True)]
        )
        yield AnsweredItems(number, _answers(batch, firsts, arm.name, found, read), found.firing)


def asked_of(item: Item, first: FirstAnswer | None) -> Conversation:
    """What the judged answer replies to, before the arm changes it."""
    if first is None:
        return item.conversation
    return item.conversation.with_reply(first.text, first.token_ids).with_user(item.follow_up)


def case_of(item: Item, answer: Answered) -> Case:
    """The answer as a judge sees it: without the arm's own instructions, so that it judges blind.

    Its id tells the words apart, not the arm: the same answer is judged once, and an answer given
    anew is judged anew.
    """
    conversation = item.conversation
    if item.follow_up:
        conversation = conversation.with_reply(answer.first_text).with_user(item.follow_up)
    conversation = _joined(conversation, answer.text)
    words = hashlib.sha256(_key(conversation).encode()).hexdigest()[:12]
    return Case(f"{item.id}#{words}", replace(conversation, id=item.id), item.fields)


def cases_of(items: Sequence[Item], answers: Mapping[str, Sequence[Answered]]) -> list[Case]:
    """Every answer of every arm as a case, each but once."""
    by_id = {item.id: item for item in items}
    found = (case_of(by_id[one.item_id], one) for some in answers.values() for one in some)
    return list({case.id: case for case in found}.values())


def _answers(
    batch: Sequence[Item],
    firsts: Sequence[FirstAnswer | None],
    arm: str,
    found: Replies,
    read: Sequence[float | None],
) -> tuple[Answered, ...]:
    rows = zip(batch, firsts, found.replies, read, strict=True)
    return tuple(_answered(item, one, arm, reply, told) for item, one, reply, told in rows)


def _answered(
    item: Item, first: FirstAnswer | None, arm: str, reply: Reply, perplexity: float | None
) -> Answered:
    return Answered(
        item_id=item.id,
        arm=arm,
        text=reply.text,
        tokens=reply.tokens,
        finish=reply.finish,
        projection=reply.projection,
        perplexity=perplexity,
        first_text="" if first is None else first.text,
        first_projection=None if first is None else first.projection,
    )


def _opening(item: Item) -> Conversation:
    """A two-turn item with nothing said in between: as long as it surely is."""
    return item.conversation.with_reply("").with_user(item.follow_up)


def _joined(conversation: Conversation, text: str) -> Conversation:
    """The conversation with its answer; one that goes on with the assistant's words is one turn."""
    last = conversation.messages[-1]
    if last.speaker != "assistant":
        return conversation.with_reply(text)
    whole = replace(last, content=last.content + text, token_ids=None)
    return Conversation((*conversation.messages[:-1], whole), conversation.id)


def _key(conversation: Conversation) -> str:
    return json.dumps([[one.speaker, one.content] for one in conversation.messages])


def _seed(run_seed: int, what: str, number: int) -> int:
    """A batch's own seed, below 2^56: the same under every arm."""
    return seed_of(run_seed, what, number)
