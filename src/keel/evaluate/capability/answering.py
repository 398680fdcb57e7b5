"""Answers lm-eval's tasks: by its own model class, or as conversations.

A model in this process is called through lm-eval's own model class. Any other answers chats, and
texts that would have to be scored (multiple choice by log-likelihood) are out of its reach.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

from keel.engines import Engine, LocalModel, text_before
from keel.errors import UsageError
from keel.evaluate.answering import (
    Answer,
    AnsweredBatch,
    Answerer,
    Batches,
    EngineAnswerer,
)
from keel.evaluate.arms import Arm, Instruction
from keel.evaluate.capability.isolation import seeded
from keel.evaluate.capability.task import CapabilityTask, TaskRequest
from keel.types import UNSTEERED, Conversation, Message, ModelIdentity, Sampling

_ROWS_CPU, _ROWS_GPU = 32, 128
"""Most items in a batch: what a kill costs, and past which a machine gains little."""
_SCORED_TOKENS = 4096
"""Most tokens in a batch of texts to be scored, whose logits are all held in float32."""


def task_answerer(task: CapabilityTask, engine: Engine) -> TaskAnswerer:
    """Answers the task on an engine: through lm-eval's model class where it can, else as chats."""
    if engine.local_model is not None:
        return LocalTaskAnswerer(task, engine)
    return ChatTaskAnswerer(task, EngineAnswerer(engine))


class TaskAnswerer(Answerer):
    """An Answerer of one task's items: each conversation's `id` names the item.

    The messages are lm-eval's: the task's requests under the arm, not the conversation's own.
    """

    def __init__(self, task: CapabilityTask, *, has_chat: bool, has_plain: bool) -> None:
        wanted = task.settings.is_chat
        if wanted and not has_chat:
            raise UsageError("the model has no chat template; leave out --chat")
        if wanted is False and not has_plain:
            raise UsageError("a served model is asked as a chat; leave out --no-chat")
        self.task = task
        self.is_chat = has_chat if wanted is None else wanted
        """Whether items are put into the model's chat template."""
        self._latest: tuple[Instruction | None, dict[str, TaskRequest]] | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against relying on the answers, for display."""
        return ()

    def plan(self, conversations: Sequence[Conversation], sampling: Sampling) -> Batches:
        """Batches of requests that lm-eval runs together: generated with the same arguments."""
        requests = self._chosen(conversations)
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            arguments = request.instances[0].args[1] if request.is_written else ""
            groups.setdefault(f"{request.kind} {arguments}", []).append(index)
        return tuple(
            tuple(indices[n] for n in batch)
            for indices in groups.values()
            for batch in self._split([requests[n] for n in indices])
        )

    @abstractmethod
    def _split(self, requests: Sequence[TaskRequest]) -> Batches:
        """Indices, batch by batch, of requests that are generated alike."""

    def requests(self, arm: Arm) -> Mapping[str, TaskRequest]:
        """lm-eval's requests under the arm's words, by item."""
        if self._latest is None or self._latest[0] != arm.instruction:
            system, chat = None, None
            if self.is_chat:
                chat = self.chat_template(arm)
            elif arm.instruction is not None and arm.instruction.is_repeated:
                raise UsageError(
                    f"arm {arm.name!r} puts words before each user turn, and without a chat "
                    "template there are none; leave it out"
                )
            elif arm.instruction is not None:
                system = arm.instruction.text
            made = {each.item_id: each for each in self.task.requests(system, chat)}
            self._latest = (arm.instruction, made)
        return self._latest[1]

    @abstractmethod
    def chat_template(self, arm: Arm) -> Callable[..., str]:
        """lm-eval's way to write messages as one text, for `answer` to understand."""

    def _chosen(
        self, conversations: Sequence[Conversation], arm: Arm = Arm(UNSTEERED)
    ) -> list[TaskRequest]:
        """The requests of these items."""
        requests = self.requests(arm)
        return [requests[conversation.id] for conversation in conversations]


class LocalTaskAnswerer(TaskAnswerer):
    """Answers a task by a model of this process, through lm-eval's own model class."""

    def __init__(self, task: CapabilityTask, engine: Engine) -> None:
        if engine.local_model is None:
            raise UsageError("lm-eval runs the model itself, so it needs the transformers engine")
        self.engine, self.local = engine, engine.local_model
        super().__init__(task, has_chat=not engine.template.is_plain, has_plain=True)

    @property
    def identity(self) -> ModelIdentity:
        """The model that answers."""
        return self.engine.identity

    @property
    def warnings(self) -> tuple[str, ...]:
        """Prompts that the model's context cannot hold: lm-eval cuts them at their beginning.

        Raises UsageError where answers alone would fill the context.
        """
        from lm_eval.models.utils import resolve_max_length

        requests = list(self.requests(Arm(UNSTEERED)).values())
        config, tokenizer = self.local.model.config, self.local.tokenizer
        context = int(resolve_max_length(config, tokenizer, default=2048))
        longest = max(request.max_new_tokens for request in requests)
        if longest >= context:
            raise UsageError(
                f"the task's answers have up to {longest} tokens, and the model's context holds "
                f"{context}; allow fewer with --max-new-tokens"
            )
        cut = sum(_tokens(self.local, r) + r.max_new_tokens > context for r in requests)
        if not cut:
            return ()
        return (
            f"{cut} of {len(requests)} prompts are too long for the model's context of {context} "
            "tokens and lost their beginning",
        )

    def _split(self, requests: Sequence[TaskRequest]) -> Batches:
        """Batches in lm-eval's order, longest first.

        For texts to write the batches are the very ones that lm-eval would make of the whole task
        with this batch size.
        """
        lengths = [_tokens(self.local, request) for request in requests]
        order = sorted(range(len(requests)), key=lambda n: (-lengths[n], requests[n].prompt))
        first = order[0]
        size = self.task.settings.batch_size or _rows(self.local, requests[first], lengths[first])
        return tuple(tuple(order[n : n + size]) for n in range(0, len(order), size))

    def answer(
        self,
        conversations: Sequence[Conversation],
        arm: Arm,
        sampling: Sampling,
        *,
        seed: int,
        on_answer: Callable[[], None] = lambda: None,
    ) -> AnsweredBatch:
        """Answer one batch in one call of lm-eval's model class."""
        from keel.evaluate.capability.model import SteeredLM

        requests = [r.cut(sampling.max_new_tokens) for r in self._chosen(conversations, arm)]
        lm = SteeredLM(self.engine, arm, batch_size=len(requests))
        with seeded(seed):
            run = getattr(lm, requests[0].kind)
            responses = iter(run([each for request in requests for each in request.repeated]))
        texts = [request.text_of(request.nested(responses)) for request in requests]
        # One text per request: lm-eval ran them in the order in which they were given.
        if requests[0].is_single_text and len(lm.lengths) == len(requests):
            pairs = zip(texts, lm.lengths, strict=True)
            answers = [
                Answer(text, n.tokens, "stop" if n.is_ended else "length") for text, n in pairs
            ]
        else:
            answers = [Answer(text, 0, "stop") for text in texts]
        return AnsweredBatch(tuple(answers), lm.firing if arm.has_bound else None)

    def chat_template(self, arm: Arm) -> Callable[..., str]:
        """The model's chat template, after the arm has put in its words."""
        from keel.evaluate.capability.model import SteeredLM

        lm = SteeredLM(self.engine, arm, batch_size=1)

        def render(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            messages = arm.change(_conversation(history)).messages
            chat = [{"role": m.speaker, "content": m.content} for m in messages]
            return str(lm.apply_chat_template(chat, add_generation_prompt=add_generation_prompt))

        return render


class ChatTaskAnswerer(TaskAnswerer):
    """Answers a task by whatever answers chats: a served model, or an engine."""

    def __init__(self, task: CapabilityTask, answerer: Answerer) -> None:
        super().__init__(task, has_chat=True, has_plain=False)
        self.answerer = answerer
        if not task.is_written:
            raise UsageError(
                f"the task {task.name} scores texts, and what answers here only writes them; "
                "leave out --endpoint and --engine, or take a task with written answers"
            )

    @property
    def identity(self) -> ModelIdentity:
        """The model that answers."""
        return self.answerer.identity

    @property
    def can_be_timed(self) -> bool:
        """As the answerer of chats."""
        return self.answerer.can_be_timed

    def fingerprint(self, arm: Arm) -> str:
        """The one of the answerer of chats."""
        return self.answerer.fingerprint(arm)

    def _split(self, requests: Sequence[TaskRequest]) -> Batches:
        """As the answerer of chats plans, where the settings do not say how many."""
        if size := self.task.settings.batch_size:
            indices = range(len(requests))
            return tuple(tuple(indices[n : n + size]) for n in range(0, len(indices), size))
        chats = [_conversation(json.loads(request.prompt)) for request in requests]
        return self.answerer.plan(chats, requests[0].sampling)

    def answer(
        self,
        conversations: Sequence[Conversation],
        arm: Arm,
        sampling: Sampling,
        *,
        seed: int,
        on_answer: Callable[[], None] = lambda: None,
    ) -> AnsweredBatch:
        """Answer one batch of chats, which end before the task's stop strings."""
        # The arm's words are put in by the answerer of chats.
        requests = [r.cut(sampling.max_new_tokens) for r in self._chosen(conversations)]
        chats = [
            _conversation(json.loads(instance.args[0]))
            for request in requests
            for instance in request.repeated
        ]
        way = requests[0].sampling
        batch = self.answerer.answer(chats, arm, way, seed=seed, on_answer=on_answer)
        given, answers = iter(batch.answers), []
        for request in requests:
            own = [next(given) for _ in request.repeated]
            texts = iter([text_before(answer.text, way.stop) for answer in own])
            text = request.text_of(request.nested(texts))
            if request.is_single_text:
                answers.append(Answer(text, own[0].tokens, own[0].finish))
            else:
                answers.append(Answer(text, 0, "stop"))
        return AnsweredBatch(tuple(answers), batch.firing)

    def chat_template(self, arm: Arm) -> Callable[..., str]:
        """The messages as JSON."""
        return lambda history, add_generation_prompt=True: json.dumps(history)


def _conversation(history: Sequence[Mapping[str, str]]) -> Conversation:
    """lm-eval's messages."""
    return Conversation(tuple(Message(m["role"], m["content"]) for m in history))  # type: ignore[arg-type]


def _tokens(local: LocalModel, request: TaskRequest) -> int:
    """Tokens of the longest text that the model reads, without what it generates."""
    texts = [each.args[:1] if request.is_written else each.args for each in request.instances]
    return max(len(local.tokenizer.encode("".join(text))) for text in texts)


def _rows(local: LocalModel, longest: TaskRequest, tokens: int) -> int:
    """Items whose batch fits in memory; of several texts per item, lm-eval runs as many rows."""
    most = _ROWS_CPU if local.device.type == "cpu" else _ROWS_GPU
    if longest.is_written:
        room = local.budget.tokens // (tokens + longest.max_new_tokens)
    else:
        room = min(local.budget.read_tokens, _SCORED_TOKENS) // max(tokens, 1)
    return max(1, min(most, local.budget.rows, room))
