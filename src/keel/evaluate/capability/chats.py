"""lm-eval's tasks put as chats to whatever answers chats: a served model, an engine of Keel's.

Its texts are cut at the task's stop words, as lm-eval cuts those of a model at hand. Texts that
would have to be scored (multiple choice by log-likelihood) are out of its reach.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keel.errors import UsageError
from keel.evaluate.answering import Answerer
from keel.evaluate.arms import Arm
from keel.evaluate.capability.asking import (
    Batches,
    Length,
    Question,
    Replies,
    Reply,
    alike,
)
from keel.evaluate.served import ServedAnswerer
from keel.types import Conversation, Message, ModelIdentity, Sampling

_MOST_STOPS = 4
"""OpenAI takes no more; the text is cut at all of them afterwards."""


@dataclass(frozen=True)
class ChatTaskAnswerer:
    """A model that answers tasks as it answers any conversation."""

    answerer: Answerer

    @property
    def identity(self) -> ModelIdentity:
        return self.answerer.identity

    @property
    def has_chat(self) -> bool:
        return True

    @property
    def has_plain(self) -> bool:
        return False

    def fingerprint(self, arm: Arm) -> str:
        return self.answerer.fingerprint(arm)

    def chat_of(self, arm: Arm) -> Callable[..., str]:
        def render(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return json.dumps(history)  # the arm's words are put in where it is asked

        return render

    def batches_of(
        self, questions: Sequence[Question], size: int | None
    ) -> tuple[Batches, list[str]]:
        """Of questions asked alike, as the answerer plans them, or so many at a time."""
        for question in questions:
            if question.kind != "generate_until":
                raise UsageError(
                    f"the task {question.leaf} scores texts ({question.kind}), and what answers "
                    "here only writes them; leave out --endpoint and --engine, or take a task with "
                    "written answers"
                )
        batches: list[tuple[int, ...]] = []
        for places in alike(questions).values():
            batches += self._planned(questions, places) if size is None else _cut_up(places, size)
        return tuple(batches), []

    def ask(self, arm: Arm, questions: Sequence[Question], *, seed: int) -> Replies:
        sampling, stops = _sampling_of(questions[0])
        requests = [r for one in questions for r in one.requests for _ in range(r.repeats)]
        conversations = [_conversation(request.args[0]) for request in requests]
        asked = _stopping(self.answerer, stops)
        answered = asked.answer(conversations, arm, sampling, seed=seed)
        given = ((_cut(one.text, stops), one) for one in answered.replies)
        replies = []
        for question in questions:
            parts = [[next(given) for _ in range(r.repeats)] for r in question.requests]
            texts = [[text for text, _ in part] for part in parts]
            last = parts[-1][-1][1]
            length = Length(last.tokens, last.finish == "stop") if question.is_one_text else None
            replies.append(Reply(texts, length))
        return Replies(tuple(replies), answered.firing)

    def _planned(
        self, questions: Sequence[Question], places: Sequence[int]
    ) -> Iterator[tuple[int, ...]]:
        sampling, _ = _sampling_of(questions[places[0]])
        asked = [_conversation(questions[place].requests[0].args[0]) for place in places]
        for batch in self.answerer.plan(asked, sampling):
            yield tuple(places[row] for row in batch)


def _cut_up(places: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(places[at : at + size]) for at in range(0, len(places), size)]


def _stopping(answerer: Answerer, stops: Sequence[str]) -> Answerer:
    """A server is told where to end; an engine's answers are cut when they are there."""
    if isinstance(answerer, ServedAnswerer):
        return replace(answerer, stops=tuple(stops[:_MOST_STOPS]))
    return answerer


def _conversation(context: str) -> Conversation:
    messages = json.loads(context)
    return Conversation(tuple(Message(one["role"], one["content"]) for one in messages))


def _sampling_of(question: Question) -> tuple[Sampling, list[str]]:
    """How a task wants its answers sampled, and where they end."""
    from lm_eval.models.utils import normalize_gen_kwargs

    asked: dict[str, Any] = dict(normalize_gen_kwargs(question.requests[0].args[1]))
    is_greedy = not asked.get("do_sample", asked.get("temperature", 0) > 0)
    temperature = 0.0 if is_greedy else float(asked.get("temperature", 1.0))
    stops = [text for text in asked.get("until", []) if text]
    return Sampling(question.max_new_tokens, temperature, float(asked.get("top_p", 1.0))), stops


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
