"""What lm-eval asks a model, under an arm, and in which batches; and an engine that answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from keel.engines.transformers import TransformersEngine
from keel.errors import UsageError
from keel.evaluate.arms import Arm
from keel.steering import Firing
from keel.types import Conversation, Message, ModelIdentity

_ROWS_CPU, _ROWS_GPU = 32, 128
"""Most items in a batch: what a kill costs, and past which a machine gains little."""
_SCORED_TOKENS = 4096
"""Most tokens in a batch of texts to be scored, whose logits are all held in float32."""


@dataclass(frozen=True)
class Length:
    """How long one generated answer was, as the model sampled it."""

    tokens: int
    is_ended: bool
    """Whether the model ended it, rather than the limit."""


@dataclass(frozen=True)
class Question:
    """All that the model is asked for one item: a text to answer, or several to score."""

    item_id: str
    leaf: str
    """Which of lm-eval's tasks it belongs to."""
    requests: tuple[Any, ...]

    @property
    def kind(self) -> str:
        """lm-eval's name for how the model is asked."""
        return str(self.requests[0].request_type)

    @property
    def is_one_text(self) -> bool:
        """Whether the answer is one generated text."""
        first = self.requests[0]
        return self.kind == "generate_until" and len(self.requests) == first.repeats == 1

    @property
    def max_new_tokens(self) -> int:
        """Longest answer; 0 where nothing is generated."""
        if self.kind != "generate_until":
            return 0
        from lm_eval.models.utils import normalize_gen_kwargs

        return int(normalize_gen_kwargs(self.requests[0].args[1])["max_gen_toks"])

    def cut(self, tokens: int) -> Question:
        """The same with a shorter answer."""
        if self.kind != "generate_until":
            return self
        short = {**self.requests[0].args[1], "max_gen_toks": min(tokens, self.max_new_tokens)}
        asked = (replace(one, arguments=(one.args[0], short)) for one in self.requests)
        return replace(self, requests=tuple(asked))


@dataclass(frozen=True)
class Reply:
    """What the model replied to one question."""

    responses: list[list[Any]]
    """As lm-eval takes them: one list per request, an entry per repeat."""
    length: Length | None = None
    """Of the answer, where it is one text."""


@dataclass(frozen=True)
class Replies:
    """One batch, asked."""

    replies: tuple[Reply, ...]
    """In the order of the questions."""
    firing: Firing | None
    """How often tokens were moved; None where the arm has no interventions."""


Batches = tuple[tuple[int, ...], ...]
"""Places of the questions that are asked together."""


class TaskAnswerer(Protocol):
    """A model that lm-eval's tasks can be put to."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model it is."""

    @property
    def has_chat(self) -> bool:
        """Whether it takes chat messages."""

    @property
    def has_plain(self) -> bool:
        """Whether it takes bare text."""

    def fingerprint(self, arm: Arm) -> str:
        """Tells apart what an arm does here."""

    def chat_of(self, arm: Arm) -> Callable[..., str]:
        """lm-eval's way to write messages as one text, with the arm's own words in them."""

    def batches_of(
        self, questions: Sequence[Question], size: int | None
    ) -> tuple[Batches, list[str]]:
        """What is asked together, and what has to be known of it."""

    def ask(self, arm: Arm, questions: Sequence[Question]) -> Replies:
        """One batch of questions of one kind, asked under an arm."""


def with_words_of(arm: Arm, history: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """lm-eval's messages, with what the arm says to the model in them."""
    if arm.instruction is None:
        return list(history)
    asked = Conversation(tuple(Message(one["role"], one["content"]) for one in history))  # type: ignore[arg-type]
    return [{"role": m.speaker, "content": m.content} for m in arm.change(asked).messages]


@dataclass(frozen=True)
class EngineTaskAnswerer:
    """A model in this process, asked through lm-eval's own model class."""

    engine: TransformersEngine

    @property
    def identity(self) -> ModelIdentity:
        return self.engine.identity

    @property
    def has_chat(self) -> bool:
        return not self.engine.template.is_plain

    @property
    def has_plain(self) -> bool:
        return True

    def fingerprint(self, arm: Arm) -> str:
        return arm.fingerprint

    def ask(self, arm: Arm, questions: Sequence[Question]) -> Replies:
        from keel.evaluate.capability.model import HeldLM

        lm = HeldLM(self.engine, arm, batch_size=len(questions))
        requests = [r for one in questions for r in one.requests for _ in range(r.repeats)]
        given = iter(getattr(lm, questions[0].kind)(requests))
        responses = [
            [[next(given) for _ in range(r.repeats)] for r in one.requests] for one in questions
        ]
        # One text per question: lm-eval ran them in the order in which they were given.
        lengths = lm.lengths if len(lm.lengths) == len(questions) else [None] * len(questions)
        replies = (Reply(*pair) for pair in zip(responses, lengths, strict=True))
        return Replies(tuple(replies), lm.firing)

    def chat_of(self, arm: Arm) -> Callable[..., str]:
        from keel.evaluate.capability.model import HeldLM

        lm = HeldLM(self.engine, arm, batch_size=1)

        def render(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            chat = with_words_of(arm, history)
            return str(lm.apply_chat_template(chat, add_generation_prompt=add_generation_prompt))

        return render

    def batches_of(
        self, questions: Sequence[Question], size: int | None
    ) -> tuple[Batches, list[str]]:
        """In lm-eval's order, longest first, and of one kind each: for texts to answer the batches
        are the very ones that lm-eval would make of the whole task with this batch size.
        """
        engine = self.engine
        lengths = [_tokens(engine, question) for question in questions]
        warnings = _context_warnings(engine, questions, lengths)
        batches: list[tuple[int, ...]] = []
        for places in alike(questions).values():
            order = sorted(places, key=lambda n: (-lengths[n], _text(questions[n])))
            rows = size or _rows(engine, questions[order[0]], lengths[order[0]])
            batches += [tuple(order[at : at + rows]) for at in range(0, len(order), rows)]
        return tuple(batches), warnings


def system_of(arm: Arm) -> str | None:
    """The arm's words as lm-eval puts them before a prompt without a chat template."""
    if arm.instruction is None:
        return None
    if arm.instruction.is_repeated:
        raise UsageError(
            f"arm {arm.name!r} puts words before each user turn, and without a chat template "
            "there are none; leave it out"
        )
    return arm.instruction.text


def alike(questions: Sequence[Question]) -> dict[str, list[int]]:
    """Places of questions that lm-eval runs together: generated with the same arguments."""
    groups: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        is_text = question.kind == "generate_until"
        arguments = question.requests[0].args[1] if is_text else ""
        groups.setdefault(f"{question.kind} {arguments}", []).append(place)
    return groups


def _tokens(engine: TransformersEngine, question: Question) -> int:
    """Tokens of the longest text that the model is given, without what it generates."""
    given = [
        r.args[:1] if r.request_type == "generate_until" else r.args for r in question.requests
    ]
    return max(len(engine.tokenizer.encode("".join(texts))) for texts in given)


def _text(question: Question) -> str:
    return str(question.requests[0].args[0])


def _rows(engine: TransformersEngine, longest: Question, tokens: int) -> int:
    """Items whose batch fits in memory; of several texts per item, lm-eval runs as many rows."""
    most = _ROWS_CPU if engine.device.type == "cpu" else _ROWS_GPU
    if longest.kind == "generate_until":
        room = engine.budget.tokens // (tokens + longest.max_new_tokens)
    else:
        room = min(engine.budget.read_tokens, _SCORED_TOKENS) // max(tokens, 1)
    return max(1, min(most, engine.budget.rows, room))


def _context_warnings(
    engine: TransformersEngine, questions: Sequence[Question], lengths: Sequence[int]
) -> list[str]:
    """Prompts that the model's context cannot hold: lm-eval cuts them at their beginning."""
    from lm_eval.models.utils import resolve_max_length

    context = int(resolve_max_length(engine.model.config, engine.tokenizer, default=2048))
    new = max(question.max_new_tokens for question in questions)
    if new >= context:
        raise UsageError(
            f"the task's answers have up to {new} tokens, and the model's context holds {context}; "
            "allow fewer with --max-new-tokens"
        )
    cut = sum(
        n + question.max_new_tokens > context
        for n, question in zip(lengths, questions, strict=True)
    )
    if not cut:
        return []
    return [
        f"{cut} of {len(questions)} prompts are too long for the model's context of {context} "
        "tokens and lost their beginning"
    ]
