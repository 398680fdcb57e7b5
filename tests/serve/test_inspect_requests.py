"""From Inspect's messages and options to ours."""

from __future__ import annotations

import pytest
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
)
from inspect_ai.tool import ToolCall

from keel.errors import UsageError
from keel.serve.inspect_model import (
    check_doable,
    conversation_of,
    conversation_seed,
    sampling_of,
)
from keel.types import Conversation, Message, Sampling

SYSTEM, USER, ASSISTANT = ChatMessageSystem, ChatMessageUser, ChatMessageAssistant


def test_speakers_and_texts_are_kept_in_order():
    found = conversation_of([SYSTEM(content="s"), USER(content="u"), ASSISTANT(content="a")])
    assert found.messages == (
        Message("system", "s"),
        Message("user", "u"),
        Message("assistant", "a"),
    )


def test_system_messages_at_the_head_become_one():
    found = conversation_of([SYSTEM(content="one"), SYSTEM(content="two"), USER(content="u")])
    assert found.messages == (Message("system", "one\n\ntwo"), Message("user", "u"))


def test_text_in_parts_is_text():
    found = conversation_of([USER(content=[ContentText(text="a"), ContentText(text="b")])])
    assert found.messages[0].content == "a\nb"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([USER(content="u"), ChatMessageTool(content="rung")], "with tools"),
        (
            [USER(content="u"), ASSISTANT(content="", tool_calls=[ToolCall("1", "bell", {})])],
            "tool calls",
        ),
        ([USER(content=[ContentImage(image="data:image/png;base64,")])], "holds image"),
        ([USER(content="u"), SYSTEM(content="late")], "system message at index 1"),
        ([], "no messages"),
    ],
)
def test_what_is_not_a_conversation_in_words_is_refused(messages, message):
    with pytest.raises(UsageError, match=message):
        conversation_of(messages)


def test_sampling_is_as_asked_and_as_keels_own_where_nothing_was_asked():
    asked = GenerateConfig(max_tokens=5, temperature=0.0, top_p=0.5)
    assert sampling_of(asked) == Sampling(5, 0.0, 0.5)
    assert sampling_of(GenerateConfig()) == Sampling()


def test_every_option_is_done_or_refused():
    """Options that Inspect may add later are refused, too: only those we know pass."""
    passing = {
        name
        for name in GenerateConfig.model_fields
        if not _is_refused(GenerateConfig.model_construct(**{name: 3}))
    }
    assert passing == {
        *("max_tokens", "temperature", "top_p", "seed", "stop_seqs"),
        *("system_message", "cache", "cache_prompt", "timeout", "attempt_timeout", "max_retries"),
        *("max_connections", "adaptive_connections", "stream_idle_timeout", "fail_on_refusal"),
        *("reasoning_history", "internal_tools", "parallel_tool_calls", "max_tool_output"),
    }


def _is_refused(config: GenerateConfig) -> bool:
    try:
        check_doable(config, [])
    except UsageError:
        return True
    return False


def test_draws_differ_between_conversations_seeds_and_times():
    first, second = (Conversation((Message("user", text),)) for text in ("a", "b"))
    seeds = {
        conversation_seed(one, seed=seed, repeat=again)
        for one in (first, second)
        for seed in (0, 1)
        for again in (0, 1)
    }
    assert len(seeds) == 8
    assert conversation_seed(first, seed=0, repeat=0) == conversation_seed(first, seed=0, repeat=0)
    assert all(0 <= seed < 2**56 for seed in seeds)


def test_stop_sequences_end_answers_and_empty_ones_are_left_out():
    asked = GenerateConfig(stop_seqs=["three", "", "two"])
    assert sampling_of(asked).stop == ("three", "two")
