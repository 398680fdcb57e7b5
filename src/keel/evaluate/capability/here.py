"""lm-eval's tasks put to an engine of this process, through lm-eval's own model class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keel.engines import Engine, LocalModel
from keel.errors import UsageError
from keel.evaluate.arms import Arm
from keel.evaluate.capability.asking import (
    Batches,
    Question,
    Replies,
    Reply,
    alike,
)
from keel.evaluate.capability.quiet import seeded
from keel.types import Conversation, Message, ModelIdentity

_ROWS_CPU, _ROWS_GPU = 32, 128
"""Most items in a batch: what a kill costs, and past which a machine gains little."""
_SCORED_TOKENS = 4096
"""Most tokens in a batch of texts to be scored, whose logits are all held in float32."""


@dataclass(frozen=True)
class EngineTaskAnswerer:
    """A model in this process that answers tasks."""

    engine: Engine

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

    def ask(self, arm: Arm, questions: Sequence[Question], *, seed: int) -> Replies:
        from keel.evaluate.capability.model import HeldLM

        lm = HeldLM(self.engine, arm, batch_size=len(questions))
        requests = [r for one in questions for r in one.requests for _ in range(r.repeats)]
        with seeded(seed):
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
            chat = _with_words_of(arm, history)
            return str(lm.apply_chat_template(chat, add_generation_prompt=add_generation_prompt))

        return render

    def batches_of(
        self, questions: Sequence[Question], size: int | None
    ) -> tuple[Batches, list[str]]:
        """In lm-eval's order, longest first, and of one kind each: for texts to answer the batches
        are the very ones that lm-eval would make of the whole task with this batch size.
        """
        local = local_model_of(self.engine)
        lengths = [_tokens(local, question) for question in questions]
        warnings = _context_warnings(local, questions, lengths)
        batches: list[tuple[int, ...]] = []
        for places in alike(questions).values():
            order = sorted(places, key=lambda n: (-lengths[n], _text(questions[n])))
            rows = size or _rows(local, questions[order[0]], lengths[order[0]])
            batches += [tuple(order[at : at + rows]) for at in range(0, len(order), rows)]
        return tuple(batches), warnings


def local_model_of(engine: Engine) -> LocalModel:
    """The engine's model in this process. Raises UsageError where it has none."""
    if engine.local_model is None:
        raise UsageError("lm-eval runs the model itself, so it needs the transformers engine")
    return engine.local_model


def _with_words_of(arm: Arm, history: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """lm-eval's messages, with what the arm says to the model in them."""
    if arm.instruction is None:
        return list(history)
    asked = Conversation(tuple(Message(one["role"], one["content"]) for one in history))  # type: ignore[arg-type]
    return [{"role": m.speaker, "content": m.content} for m in arm.change(asked).messages]


def _tokens(local: LocalModel, question: Question) -> int:
    """Tokens of the longest text that the model is given, without what it generates."""
    given = [
        r.args[:1] if r.request_type == "generate_until" else r.args for r in question.requests
    ]
    return max(len(local.tokenizer.encode("".join(texts))) for texts in given)


def _text(question: Question) -> str:
    return str(question.requests[0].args[0])


def _rows(local: LocalModel, longest: Question, tokens: int) -> int:
    """Items whose batch fits in memory; of several texts per item, lm-eval runs as many rows."""
    most = _ROWS_CPU if local.device.type == "cpu" else _ROWS_GPU
    if longest.kind == "generate_until":
        room = local.budget.tokens // (tokens + longest.max_new_tokens)
    else:
        room = min(local.budget.read_tokens, _SCORED_TOKENS) // max(tokens, 1)
    return max(1, min(most, local.budget.rows, room))


def _context_warnings(
    local: LocalModel, questions: Sequence[Question], lengths: Sequence[int]
) -> list[str]:
    """Prompts that the model's context cannot hold: lm-eval cuts them at their beginning."""
    from lm_eval.models.utils import resolve_max_length

    context = int(resolve_max_length(local.model.config, local.tokenizer, default=2048))
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
