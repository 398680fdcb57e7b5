"""A run as a model of Inspect's: capped with the run's floors, its answers placed on the axis.

Translates Inspect's requests to Keel's, and refuses options that Keel would have to ignore.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from torch import Tensor

from keel.errors import KeelError, UsageError
from keel.seeds import seed_of
from keel.serve.batching import BatchedAnswer, PendingRequest, RequestBatcher
from keel.serve.inspect_scorer import TURN
from keel.serve.model import open_served
from keel.types import Conversation, Message, Prompt, Sampling

_POLL_S = 0.01
_DONE_HERE = frozenset({"max_tokens", "temperature", "top_p", "seed", "stop_seqs"})
_DONE_BY_INSPECT = frozenset(
    {
        "adaptive_connections",
        "attempt_timeout",
        "cache",
        "cache_prompt",  # a hint for speed
        "fail_on_refusal",
        "internal_tools",  # of use with tools only, as the next two
        "max_tool_output",
        "parallel_tool_calls",
        "max_connections",
        "max_retries",
        "reasoning_history",
        "stream_idle_timeout",
        "system_message",
        "timeout",
    }
)
_NEUTRAL = {"num_choices": 1, "best_of": 1}
"""Values without effect; zero, false and empty values of any option have none either."""


class KeelModel(ModelAPI):  # type: ignore[misc]  # Inspect's types are not followed
    """Answers for `keel/RUN`; `-M` options are those of `open_served`."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),
        **options: Any,
    ) -> None:
        """Load the run's model. Raises PrerequisiteError, which Inspect shows as one line."""
        super().__init__(model_name, base_url, api_key, [], config)
        with _as_prerequisite_error():
            self.served = open_served(model_name, **options)
        self._batcher = RequestBatcher(self.served)
        self._requests_by_seed: Counter[int] = Counter()

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """One answer. Raises UsageError for options and messages that Keel does not support."""
        check_doable(config, tools)
        conversation = conversation_of(input)
        seed = self._seed(conversation, config.seed)
        prompt = Prompt(f"inspect/{seed:x}", conversation)
        request = PendingRequest(prompt, sampling_of(config), seed)
        return self._output(request, await self._answer(request))

    def close(self) -> None:
        """Refuse waiting requests and close the engine."""
        self._batcher.close()
        self.served.close()

    def max_tokens(self) -> int:
        """Longest answer if the task sets none."""
        return Sampling().max_new_tokens

    def connection_key(self) -> str:
        """Inspect limits connections per run."""
        return str(self.model_name)

    def collapse_user_messages(self) -> bool:
        """True: many chat templates require alternating speakers."""
        return True

    def collapse_assistant_messages(self) -> bool:
        """True: many chat templates require alternating speakers."""
        return True

    def _seed(self, conversation: Conversation, seed: int | None) -> int:
        """With a seed, equal requests get equal answers; without, an item's epochs differ."""
        if seed is not None:
            return conversation_seed(conversation, seed=seed, repeat=0)
        first = conversation_seed(conversation, seed=0, repeat=0)
        repeat = self._requests_by_seed[first]
        self._requests_by_seed[first] += 1
        return conversation_seed(conversation, seed=0, repeat=repeat)

    async def _answer(self, request: PendingRequest) -> BatchedAnswer:
        # Polled: Inspect runs on asyncio or trio, and may stop waiting at any time.
        try:
            while not self._batcher.offer(request):
                await anyio.sleep(_POLL_S)
            while not request.future.done():
                await anyio.sleep(_POLL_S)
        finally:
            request.future.cancel()
        return request.future.result()

    def _output(self, request: PendingRequest, answer: BatchedAnswer) -> ModelOutput:
        completion, gauge = answer.completion, self.served.gauge
        assert completion.projections_TK is not None
        reading = gauge.reading(0, completion.projections_TK, completion.text)
        prompt = len(self.served.engine.template.prompt_ids(request.prompt.conversation))
        sampled = len(completion.token_ids)
        message = ChatMessageAssistant(
            content=completion.text,
            model=self.model_name,
            source="generate",
            metadata=self._level(completion.projections_TK),
        )
        stop_reason = "stop" if completion.finish == "stop" else "max_tokens"
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=stop_reason)],
            usage=ModelUsage(
                input_tokens=prompt, output_tokens=sampled, total_tokens=prompt + sampled
            ),
            metadata={
                "setting": self.served.setting,
                "is_capped": self.served.floors is not None,
                "firing_rate": None if answer.firing is None else answer.firing.rate,
                "layer": gauge.layer,
                "projection": None if reading is None else reading.projection,
                "projection_gaps": None if reading is None else reading.gaps,
                "batch_size": answer.batch_size,
            },
        )

    def _level(self, projections_TK: Tensor) -> dict[str, Any] | None:
        """What the scorer of drift needs of an answer; None for a run without an alarm."""
        if self.served.alarm is None:
            return None
        heights_T = projections_TK[:, -1].double()
        mean = float(heights_T.mean()) if len(heights_T) else 0.0
        return {TURN: {"mean": mean, "tokens": len(heights_T)}}


def conversation_of(messages: Sequence[ChatMessage]) -> Conversation:
    """The messages as a conversation; system messages at its head become one.

    Raises UsageError for what is not text: tools, images, reasoning.
    """
    spoken = [Message(_speaker(message), _text(message)) for message in messages]
    count = next(
        (n for n, message in enumerate(spoken) if message.speaker != "system"), len(spoken)
    )
    if count > 1:
        joined = "\n\n".join(message.content for message in spoken[:count])
        spoken[:count] = [Message("system", joined)]
    return Conversation(tuple(spoken))


def sampling_of(config: GenerateConfig) -> Sampling:
    """The sampling that Inspect's options describe; Keel's defaults for what they leave open."""
    given = {
        "max_new_tokens": config.max_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "stop": tuple(filter(None, config.stop_seqs or ())),
    }
    return Sampling(**{name: value for name, value in given.items() if value is not None})


def check_doable(config: GenerateConfig, tools: Sequence[ToolInfo]) -> None:
    """Raise UsageError for tools and for options that Keel would have to ignore."""
    if tools:
        names = ", ".join(tool.name for tool in tools[:5])
        raise UsageError(f"keel models call no tools, and this task has {names}; use one without")
    undone = [
        f"{name}={value!r}"
        for name, value in config
        if name not in _DONE_HERE | _DONE_BY_INSPECT and value and value != _NEUTRAL.get(name)
    ]
    if undone:
        raise UsageError(
            f"keel models cannot do {', '.join(undone)}; leave it out, there are "
            f"{', '.join(sorted(_DONE_HERE))}"
        )


def conversation_seed(conversation: Conversation, *, seed: int, repeat: int) -> int:
    """A seed of the conversation's own, so that no two items of a task share their draws.

    `repeat` counts earlier requests with the same conversation; 0 to give each the same draws.
    """
    content = [(message.speaker, message.content) for message in conversation.messages]
    return seed_of((seed, repeat, content))


def _speaker(message: ChatMessage) -> Any:
    if isinstance(message, ChatMessageTool):
        raise UsageError("a conversation with tools was given, and keel models call none")
    if isinstance(message, ChatMessageAssistant) and message.tool_calls:
        raise UsageError("an answer with tool calls was given, and keel models call no tools")
    return message.role


def _text(message: ChatMessage) -> str:
    other = sorted({part.type for part in message.content_list} - {"text"})
    if other:
        raise UsageError(f"a message holds {', '.join(other)}, and keel models read text only")
    return str(message.text)


@contextmanager
def _as_prerequisite_error() -> Iterator[None]:
    """Raises Keel's errors as the one that Inspect shows without a traceback."""
    try:
        yield
    except KeelError as error:
        raise PrerequisiteError(f"keel: {error}") from error
