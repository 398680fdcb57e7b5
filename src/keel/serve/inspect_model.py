"""A run as a model of Inspect's: capped with the run's floors, its answers placed on the axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from keel.errors import KeelError
from keel.serve.batching import BatchedAnswer, PendingRequest, RequestBatcher
from keel.serve.inspect_requests import (
    check_doable,
    conversation_of,
    conversation_seed,
    sampling_of,
)
from keel.serve.model import open_served
from keel.types import Conversation, Prompt, Sampling

_POLL_S = 0.01


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
            content=completion.text, model=self.model_name, source="generate"
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


@contextmanager
def _as_prerequisite_error() -> Iterator[None]:
    """Raises Keel's errors as the one that Inspect shows without a traceback."""
    try:
        yield
    except KeelError as error:
        raise PrerequisiteError(f"keel: {error}") from error
