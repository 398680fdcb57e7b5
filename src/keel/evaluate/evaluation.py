"""What one evaluation asks, in which batches, and how a batch is answered under an arm.

The plan of batches is fixed for all arms, and a batch draws with the same seed under each: what
differs between two arms is what the arms do, not luck. Knows nothing of folders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keel.evaluate.answering import AnsweredBatch, Answerer, Batches
from keel.evaluate.arms import Arm
from keel.seeds import seed_of, text_hash
from keel.steering import Firing
from keel.types import (
    UNSTEERED,
    Answered,
    Case,
    Conversation,
    FirstAnswer,
    Grader,
    Item,
    Rubric,
    Sampling,
    Suite,
)


@dataclass(frozen=True)
class Procedure:
    """How items are answered, where a suite and its sampling do not say it all."""

    settings: Callable[[Sequence[Item]], Mapping[str, Any]]
    """All that decides the answers to some of the suite's items, as plain values."""
    facts: Mapping[str, str]
    """The same, for display."""
    batch_seed: Callable[[int, str, int], int] = seed_of
    """Seed of a batch from the evaluation's seed, its turn (`first` or `items`) and its number."""


@dataclass(frozen=True)
class Evaluation:
    """A suite's items, the arms under which they are answered, by what, and who judges them."""

    suite: Suite
    arms: tuple[Arm, ...]
    answerer: Answerer
    grader: Grader
    rubric: Rubric
    name: str = ""
    """Under which it is kept; the suite's where it has none of its own."""
    seed: int = 0
    """Decides every random draw."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Other settings of it, for display."""
    warnings: tuple[str, ...] = ()
    command: str = ""
    """What to type to go on after an interruption."""
    procedure: Procedure | None = None
    """None: as the suite's sampling says, and labelled by its rubric."""

    @property
    def folder_name(self) -> str:
        """The name under which it is kept."""
        return self.name or self.suite.name

    def batch_seed(self, turn: str, number: int) -> int:
        """The seed of one batch, the same under every arm."""
        make = seed_of if self.procedure is None else self.procedure.batch_seed
        return make(self.seed, turn, number)


@dataclass(frozen=True)
class AnsweringPlan:
    """Batches, the same under every arm."""

    batches: Batches
    """Indices of items; a batch holds baseline items only, or none."""
    first: Batches = ()
    """Indices in `openings` of first turns that are answered together."""


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
    """The suite with its first `limit` items, and the baselines that share their levels."""
    if limit is None:
        return suite
    kept = [item for item in suite.items if not item.is_baseline][:limit]
    levels = {pair for item in kept for pair in item.factors.items()}
    bare = [item for item in suite.items if item.is_baseline and levels >= {*item.factors.items()}]
    return replace(suite, items=(*kept, *bare))


def plan_answers(answerer: Answerer, items: Sequence[Item], sampling: Sampling) -> AnsweringPlan:
    """Batches that fit in memory under any arm."""
    first = [_with_id(item.conversation, item) for item in openings(items)]
    return AnsweringPlan(
        _plan_items(answerer, items, range(len(items)), sampling),
        answerer.plan(first, sampling) if first else (),
    )


def extend_plan(
    plan: AnsweringPlan,
    answerer: Answerer,
    items: Sequence[Item],
    sampling: Sampling,
    *,
    known: Sequence[Item],
) -> AnsweringPlan:
    """A plan of the `known` items with batches added for the other ones among `items`.

    Planned batches keep number and items, so that their answers stay as they are.
    """
    index = {item.id: n for n, item in enumerate(items)}
    batches = tuple(tuple(index[known[n].id] for n in batch) for batch in plan.batches)
    others = sorted({*index.values()} - {n for batch in batches for n in batch})
    opened = openings(items)
    opening = {_key(item.conversation): n for n, item in enumerate(opened)}
    before = [opening[_key(item.conversation)] for item in openings(known)]
    first = tuple(tuple(before[n] for n in batch) for batch in plan.first)
    fresh = [n for n in range(len(opened)) if n not in before]
    conversations = [_with_id(opened[n].conversation, opened[n]) for n in fresh]
    added = answerer.plan(conversations, sampling) if fresh else ()
    return AnsweringPlan(
        (*batches, *_plan_items(answerer, items, others, sampling)),
        (*first, *(tuple(fresh[n] for n in batch) for batch in added)),
    )


def openings(items: Sequence[Item]) -> list[Item]:
    """Of items with a second turn, the first item with each conversation to begin with."""
    opened: dict[str, Item] = {}
    for item in items:
        if item.follow_up:
            opened.setdefault(_key(item.conversation), item)
    return list(opened.values())


def batches_of(plan: AnsweringPlan, items: Sequence[Item], arm: str) -> list[int]:
    """Numbers of the batches that an arm has to answer: baselines are answered unsteered only."""
    return [
        number
        for number, batch in enumerate(plan.batches)
        if arm == UNSTEERED or not items[batch[0]].is_baseline
    ]


def answer_first(
    evaluation: Evaluation,
    arm: Arm,
    plan: AnsweringPlan,
    *,
    done: Collection[int] = (),
    on_answer: Callable[[], None] = lambda: None,
) -> Iterator[AnsweredFirst]:
    """First turns, each conversation once, in the planned order, without batches done before."""
    opened = openings(evaluation.suite.items)
    for number in range(len(plan.first)):
        if number in done:
            continue
        batch = [opened[n] for n in plan.first[number]]
        conversations = [_with_id(item.conversation, item) for item in batch]
        answered = _answer(evaluation, arm, conversations, "first", number, on_answer)
        pairs = zip(batch, answered.answers, strict=True)
        yield AnsweredFirst(
            number,
            tuple(FirstAnswer(i.id, a.text, a.token_ids, a.projection) for i, a in pairs),
        )


def answer_items(
    evaluation: Evaluation,
    arm: Arm,
    plan: AnsweringPlan,
    *,
    done: Collection[int] = (),
    first: Sequence[FirstAnswer] = (),
    on_answer: Callable[[], None] = lambda: None,
) -> Iterator[AnsweredItems]:
    """Items in the planned order, without batches done before.

    What a batch answers depends on the seed, its number, its items and the arm alone. `first`
    holds the arm's answers to first turns, where items have two.
    """
    items = evaluation.suite.items
    by_id = {item.id: item for item in items}
    opened = {_key(by_id[answer.item_id].conversation): answer for answer in first}
    for number in batches_of(plan, items, arm.name):
        if number in done:
            continue
        batch = [items[n] for n in plan.batches[number]]
        firsts = [opened[_key(i.conversation)] if i.follow_up else None for i in batch]
        conversations = [_before(item, said) for item, said in zip(batch, firsts, strict=True)]
        answered = _answer(evaluation, arm, conversations, "items", number, on_answer)
        pairs = zip(conversations, answered.answers, strict=True)
        perplexities = evaluation.answerer.perplexities(
            [conversation.with_reply(a.text, a.token_ids) for conversation, a in pairs]
        )
        rows = zip(batch, firsts, answered.answers, perplexities, strict=True)
        answers = tuple(
            Answered(
                item_id=item.id,
                arm=arm.name,
                text=answer.text,
                tokens=answer.tokens,
                finish=answer.finish,
                projection=answer.projection,
                perplexity=perplexity,
                first_text="" if first_answer is None else first_answer.text,
                first_projection=None if first_answer is None else first_answer.projection,
            )
            for item, first_answer, answer, perplexity in rows
        )
        yield AnsweredItems(number, answers, answered.firing)


def case_of(item: Item, answer: Answered) -> Case:
    """The answer as a judge sees it: without the arm's own instructions, so that it judges blind.

    Its id tells the words apart, not the arm: the same answer is judged once, and an answer given
    anew is judged anew.
    """
    conversation = item.conversation
    if item.follow_up:
        conversation = conversation.with_reply(answer.first_text).with_user(item.follow_up)
    last = conversation.messages[-1]
    if last.speaker == "assistant":  # its own words, gone on with, are one turn
        whole = replace(last, content=last.content + answer.text, token_ids=None)
        conversation = Conversation((*conversation.messages[:-1], whole), conversation.id)
    else:
        conversation = conversation.with_reply(answer.text)
    words = text_hash(_key(conversation), 12)
    return Case(f"{item.id}#{words}", replace(conversation, id=item.id), item.fields)


def cases_of(items: Sequence[Item], answers: Mapping[str, Sequence[Answered]]) -> list[Case]:
    """Every answer of every arm as a case, each but once."""
    by_id = {item.id: item for item in items}
    cases = (case_of(by_id[a.item_id], a) for given in answers.values() for a in given)
    return list({case.id: case for case in cases}.values())


def _plan_items(
    answerer: Answerer, items: Sequence[Item], indices: Sequence[int], sampling: Sampling
) -> Batches:
    """Batches of the items at these indices, those of baselines apart.

    A second turn's length is not known before the first is answered, and differs between arms;
    so its batches are planned as if first answers were as long as they may be.
    """
    longest = replace(sampling, max_new_tokens=2 * sampling.max_new_tokens)
    batches: list[tuple[int, ...]] = []
    for is_baseline in (False, True):
        group = [n for n in indices if items[n].is_baseline == is_baseline]
        if group:
            conversations = [_before(items[n], FirstAnswer("", "")) for n in group]
            room = longest if any(items[n].follow_up for n in group) else sampling
            planned = answerer.plan(conversations, room)
            batches += [tuple(group[n] for n in batch) for batch in planned]
    return tuple(batches)


def _answer(
    evaluation: Evaluation,
    arm: Arm,
    conversations: Sequence[Conversation],
    turn: str,
    number: int,
    on_answer: Callable[[], None],
) -> AnsweredBatch:
    seed, sampling = evaluation.batch_seed(turn, number), evaluation.suite.sampling
    return evaluation.answerer.answer(conversations, arm, sampling, seed=seed, on_answer=on_answer)


def _before(item: Item, first: FirstAnswer | None) -> Conversation:
    """What the judged answer replies to, before the arm changes it."""
    conversation = _with_id(item.conversation, item)
    if not item.follow_up or first is None:
        return conversation
    return conversation.with_reply(first.text, first.token_ids).with_user(item.follow_up)


def _with_id(conversation: Conversation, item: Item) -> Conversation:
    return replace(conversation, id=item.id)


def _key(conversation: Conversation) -> str:
    return json.dumps([[message.speaker, message.content] for message in conversation.messages])
