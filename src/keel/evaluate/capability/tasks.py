"""A task of lm-eval's as items to be answered under arms, and as scores of the answers.

lm-eval makes the prompts, asks the model and scores; this says in which batches, and keeps items
apart. Knows nothing of folders and statistics.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from keel.errors import UsageError
from keel.evaluate.arms import Arm
from keel.evaluate.capability.asking import (
    Question,
    Reply,
    TaskAnswerer,
    system_of,
)
from keel.evaluate.capability.quiet import quietly
from keel.evaluate.capability.sentence_rules import rules_for
from keel.settings import CapabilitySettings
from keel.steering import Firing
from keel.types import Answered, Conversation, Item, Message


@dataclass(frozen=True)
class Score:
    """What lm-eval makes of one answer, by metric and answer filter: `exact_match,none`."""

    item_id: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class AnsweredBatch:
    """One batch, complete: the unit that is kept or done again."""

    answers: tuple[Answered, ...]
    firing: Firing | None


class CapabilityTask:
    """One task, or a group of tasks that are scored alike."""

    def __init__(
        self,
        name: str,
        leaves: Mapping[str, Any],
        settings: CapabilitySettings,
        *,
        metric: str,
        answer_filter: str,
        warnings: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.settings = settings
        self.metric, self.filter = metric, answer_filter
        self.warnings = list(warnings)
        """What has to be known of the scores, for people to see."""
        self._leaves = leaves
        self._first = next(iter(leaves.values()))
        self._scored: dict[tuple[tuple[str, str], ...], list[Score]] = {}

    @property
    def measure(self) -> str:
        """What is reported, in words."""
        return self.metric if self.filter == "none" else f"{self.metric} ({self.filter})"

    @property
    def key(self) -> str:
        """The measure as lm-eval writes it; a key of `Score.values`."""
        return f"{self.metric},{self.filter}"

    @property
    def is_higher_better(self) -> bool:
        """Whether a higher score is a better one."""
        return bool(self._first.higher_is_better().get(self.metric, True))

    @property
    def versions(self) -> str:
        """Of the task, or of each task of the group."""
        return ", ".join(sorted({str(leaf.VERSION) for leaf in self._leaves.values()}))

    @property
    def data_hash(self) -> str:
        """SHA-256 of the items with all their fields, references too."""
        told = hashlib.sha256()
        with self._calling():
            for _, _, doc in self._docs():
                told.update(json.dumps(doc, sort_keys=True, default=str).encode())
        return told.hexdigest()

    def aggregate(self, values: Sequence[Any]) -> float:
        """The task's one number from its items' values."""
        return float(self._first.aggregation()[self.metric](list(values)))

    def items(self) -> tuple[Item, ...]:
        """What is asked, in the order of the data; without what a chat template adds."""
        with self._calling():
            return tuple(_item(leaf, n, doc) for leaf, n, doc in self._docs())

    def questions(self, model: TaskAnswerer, arm: Arm) -> list[Question]:
        """What lm-eval asks the model under an arm, one per item, in the order of `items`."""
        is_chat = self.is_chat(model)
        with self._calling():
            for leaf in self._leaves.values():
                leaf.build_all_requests(
                    limit=self.settings.limit,
                    system_instruction=None if is_chat else system_of(arm),
                    apply_chat_template=is_chat,
                    chat_template=model.chat_of(arm) if is_chat else None,
                )
            return list(self._grouped())

    def is_chat(self, model: TaskAnswerer) -> bool:
        """Whether items are put into the model's chat template."""
        if self.settings.is_chat is None:
            return model.has_chat
        if self.settings.is_chat and not model.has_chat:
            raise UsageError("the model has no chat template; leave out --chat")
        if not self.settings.is_chat and not model.has_plain:
            raise UsageError("a served model is asked as a chat; leave out --no-chat")
        return self.settings.is_chat

    def plan(
        self, model: TaskAnswerer, questions: Sequence[Question]
    ) -> tuple[tuple[int, ...], ...]:
        """Places of items that are answered together, in lm-eval's own order."""
        batches, warnings = model.batches_of(questions, self.settings.batch_size)
        self.warnings += warnings
        return batches

    def answer(
        self,
        model: TaskAnswerer,
        arm: Arm,
        questions: Sequence[Question],
        batches: Mapping[int, Sequence[int]],
    ) -> Iterator[tuple[int, AnsweredBatch]]:
        """Each batch as it is answered. What it answers hangs on the batch and the arm alone."""
        for number, places in batches.items():
            asked = [questions[place] for place in places]
            found = model.ask(arm, asked, seed=self.settings.seed + number)
            answers = tuple(
                _answered(arm, question, reply)
                for question, reply in zip(asked, found.replies, strict=True)
            )
            yield number, AnsweredBatch(answers, found.firing)

    def seconds(self, model: TaskAnswerer, arm: Arm, questions: Sequence[Question]) -> float:
        """How long a batch takes at the most: its prompts once, then a step per token."""
        took = []
        for tokens in (4, 12):
            began = time.monotonic()
            short = [question.cut(tokens) for question in questions]
            model.ask(arm, short, seed=self.settings.seed)
            took.append(time.monotonic() - began)
        longest = max(question.max_new_tokens for question in questions)
        step = max(0.0, (took[1] - took[0]) / 8) if longest else 0.0
        return took[0] + step * longest

    def score(self, answers: Sequence[Answered]) -> list[Score]:
        """lm-eval's score of every answer, in the order of `items`."""
        given = {answer.item_id: answer for answer in answers}
        key = tuple(sorted((answer.item_id, answer.text) for answer in answers))
        if key not in self._scored:
            self._scored[key] = self._score(given)
        return self._scored[key]

    def _score(self, given: Mapping[str, Answered]) -> list[Score]:
        with self._calling():
            for leaf in self._leaves.values():
                leaf.build_all_requests(limit=self.settings.limit)
            questions = list(self._grouped())
            for question in questions:
                _fill(question, given[question.item_id])
            for leaf in self._leaves.values():
                leaf.apply_filters()
            return [Score(q.item_id, dict(self._values(q))) for q in questions]

    def _values(self, question: Question) -> Iterator[tuple[str, Any]]:
        for name in question.requests[0].filtered_resps:
            results = [request.filtered_resps[name] for request in question.requests]
            doc = question.requests[0].doc
            for metric, value in self._leaves[question.leaf].process_results(doc, results).items():
                yield f"{metric},{name}", value

    def _docs(self) -> Iterator[tuple[Any, int, Any]]:
        for leaf in self._leaves.values():
            for number, doc in leaf.doc_iterator(limit=self.settings.limit):
                yield leaf, number, doc

    def _grouped(self) -> Iterator[Question]:
        for name, leaf in self._leaves.items():
            by_doc: dict[int, list[Any]] = {}
            for request in leaf.instances:
                by_doc.setdefault(request.doc_id, []).append(request)
            for number, requests in by_doc.items():
                ordered = sorted(requests, key=lambda request: request.idx)
                yield Question(f"{name}/{number}", name, tuple(ordered))

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Around every call into lm-eval."""
        with rules_for(self.name), quietly(self.settings.seed):
            yield


def _item(leaf: Any, number: int, doc: Any) -> Item:
    message = Message("user", str(leaf.doc_to_text(doc)))
    return Item(f"{leaf.config.task}/{number}", Conversation((message,)))


def _answered(arm: Arm, question: Question, reply: Reply) -> Answered:
    """The answer with its length; where it is more than one text, all of them as JSON."""
    if not question.is_one_text or reply.length is None:
        return Answered(question.item_id, arm.name, json.dumps(reply.responses), 0, "stop")
    finish: Literal["stop", "length"] = "stop" if reply.length.is_ended else "length"
    text = reply.responses[0][0]
    return Answered(question.item_id, arm.name, text, reply.length.tokens, finish)


def _fill(question: Question, answer: Answered) -> None:
    """Give lm-eval the responses as the model gave them."""
    responses = [[answer.text]] if question.is_one_text else json.loads(answer.text)
    for request, response in zip(question.requests, responses, strict=True):
        request.resps = [tuple(one) if isinstance(one, list) else one for one in response]
