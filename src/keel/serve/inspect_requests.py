"""Translates Inspect's requests to Keel's; refuses options that Keel would have to ignore.

Knows nothing of engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageTool, GenerateConfig
from inspect_ai.tool import ToolInfo

from keel.errors import UsageError
from keel.seeds import seed_of
from keel.types import Conversation, Message, Sampling

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
