"""lm-eval's tasks put to a model behind an OpenAI-compatible address, as chats.

Its texts are cut at the task's stop words, as lm-eval cuts those of a model at hand. Texts that
would have to be scored (multiple choice by log-likelihood) are out of its reach.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keel.errors import UsageError
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

_BATCH = 16
_MOST_STOPS = 4
"""OpenAI takes no more; the text is cut at all of them afterwards."""


@dataclass(frozen=True)
class ServedTaskAnswerer:
    """A served model that answers tasks."""

    served: ServedAnswerer

    @property
    def identity(self) -> ModelIdentity:
        return self.served.identity

    @property
    def has_chat(self) -> bool:
        return True

    @property
    def has_plain(self) -> bool:
        return False

    def fingerprint(self, arm: Arm) -> str:
        return self.served.fingerprint(arm)

    def chat_of(self, arm: Arm) -> Callable[..., str]:
        def render(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return json.dumps(history)  # the arm's words are put in where it is asked

        return render

    def batches_of(
        self, questions: Sequence[Question], size: int | None
    ) -> tuple[Batches, list[str]]:
        """In the task's order; what a kill can cost."""
        for question in questions:
            if question.kind != "generate_until":
                raise UsageError(
                    f"the task {question.leaf} scores texts ({question.kind}), and a served model "
                    "only writes them; leave out --endpoint, or take a task with written answers"
                )
        rows = size or _BATCH
        groups = (tuple(places) for places in alike(questions).values())
        return tuple(g[at : at + rows] for g in groups for at in range(0, len(g), rows)), []

    def ask(self, arm: Arm, questions: Sequence[Question]) -> Replies:
        sampling, stops = _sampling_of(questions[0])
        requests = [r for one in questions for r in one.requests for _ in range(r.repeats)]
        conversations = [_conversation(request.args[0]) for request in requests]
        asked = replace(self.served, stops=tuple(stops[:_MOST_STOPS]))
        found = asked.answer(conversations, arm, sampling, seed=0).replies
        given = iter(zip((_cut(one.text, stops) for one in found), found, strict=True))
        replies = []
        for question in questions:
            parts = [[next(given) for _ in range(r.repeats)] for r in question.requests]
            texts = [[text for text, _ in part] for part in parts]
            last = parts[-1][-1][1]
            length = Length(last.tokens, last.finish == "stop") if question.is_one_text else None
            replies.append(Reply(texts, length))
        return Replies(tuple(replies), None)


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
