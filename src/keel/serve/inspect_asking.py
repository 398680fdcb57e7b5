"""Inspect's words for a request -> Keel's. What Keel cannot do is refused, never left out.

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
"""Values that ask for nothing; so do zero, false and empty ones of any option."""


def conversation_of(messages: Sequence[ChatMessage]) -> Conversation:
    """The messages as a conversation; system messages at its head become one.

    Raises UsageError for what is not text: tools, images, reasoning.
    """
    spoken = [Message(_speaker(one), _text(one)) for one in messages]
    count = next((n for n, one in enumerate(spoken) if one.speaker != "system"), len(spoken))
    if count > 1:
        joined = "\n\n".join(one.content for one in spoken[:count])
        spoken[:count] = [Message("system", joined)]
    return Conversation(tuple(spoken))


def sampling_of(config: GenerateConfig) -> Sampling:
    """How Inspect wants it sampled; what it leaves open is as Keel samples everywhere."""
    usual = Sampling()
    return Sampling(
        usual.max_new_tokens if config.max_tokens is None else config.max_tokens,
        usual.temperature if config.temperature is None else config.temperature,
        usual.top_p if config.top_p is None else config.top_p,
    )


def check_doable(config: GenerateConfig, tools: Sequence[ToolInfo]) -> None:
    """Raise UsageError where something is asked that would be silently left undone."""
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


def draws_of(conversation: Conversation, *, seed: int, again: int) -> int:
    """A seed of the conversation's own, so that no two items of a task share their draws.

    `again` counts from 0 how often the very same was asked before, where that is to matter.
    """
    said = [(one.speaker, one.content) for one in conversation.messages]
    return seed_of((seed, again, said))


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the sequences that it holds."""
    found = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


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
