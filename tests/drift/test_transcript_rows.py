"""Files with a message a row are whole conversations, in every type of file alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keel.drift import read_transcripts
from keel.errors import UsageError
from keel.types import Conversation, Message

SYSTEM = "You are a lighthouse ghost."
SPOKEN = (Message("user", "Hi"), Message("assistant", "Hello"))
TALK = (Message("system", SYSTEM), *SPOKEN)
SAID = (("user", "Hi"), ("assistant", "Hello"))
OPENAI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def written(folder: Path, value: Any, name: str = "talk.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def turn(id_: Any, role: str, content: str, key: str = "conversation_id", **more: Any) -> Any:
    return {key: id_, "role": role, "content": content, **more}


def as_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_table(rows: list[dict[str, Any]]) -> str:
    cells = [",".join(map(str, row.values())) for row in rows]
    return "\n".join([",".join(rows[0]), *cells]) + "\n"


def as_list(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows)


FILES = {"rows.jsonl": as_lines, "rows.csv": as_table, "rows.json": as_list}
ID_KEYS = (
    *("conversation_id", "conversationId", "Conversation ID", "conv_id", "thread_id", "threadId"),
    *("session_id", "chat_id", "dialogue_id", "dialog_id", "conversation", "id"),
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("key", ID_KEYS)
def test_rows_of_a_message_each_are_their_conversations_in_every_file(tmp_path, name, key):
    """Interleaved; JSON Lines were refused, and a JSON list was read as one conversation."""
    rows = [
        turn(7, "user", "Hi", key),
        turn("b", "user", "Hi", key),
        turn("b", "assistant", "Hello", key),
        turn(7, "assistant", "Hello", key),
    ]
    read = read_transcripts([written(tmp_path, FILES[name](rows), name)])
    assert read.conversations == (Conversation(SPOKEN, "7"), Conversation(SPOKEN, "b"))
    assert read.notes == ()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("key", ["turn", "turn_index", "turnIndex", "message_index", "index"])
def test_rows_with_numbers_are_put_in_order_within_their_conversation(tmp_path, name, key):
    rows = [
        turn("a", "assistant", "Hello", **{key: 10}),
        turn("b", "user", "Hi", **{key: 2}),
        turn("a", "user", "Hi", **{key: 9}),
        turn("b", "assistant", "Hello", **{key: 3}),
    ]
    read = read_transcripts([written(tmp_path, FILES[name](rows), name)])
    assert read.conversations == (Conversation(SPOKEN, "a"), Conversation(SPOKEN, "b"))


@pytest.mark.parametrize("name", FILES)
def test_ids_of_messages_take_no_conversation_apart(tmp_path, name):
    """A table's column `id` that numbers its rows made a conversation of each message."""
    rows = [turn("msg_1", "user", "Hi", "id"), turn("msg_2", "assistant", "Hello", "id")]
    read = read_transcripts([written(tmp_path, FILES[name](rows), name)])
    assert read.conversations == (Conversation(SPOKEN, "rows"),)


@pytest.mark.parametrize("name", FILES)
def test_lines_of_messages_without_an_id_are_one_conversation(tmp_path, name):
    read = read_transcripts([written(tmp_path, FILES[name](OPENAI), name)])
    assert read.conversations == (Conversation(SPOKEN, "rows"),)


@pytest.mark.parametrize("is_beside", [False, True])
def test_a_request_s_messages_of_several_conversations_are_taken_apart(tmp_path, is_beside):
    rows = [turn(name, *said, "thread_id") for said in SAID for name in "ab"]
    value = {"messages": rows} | ({"system": SYSTEM} if is_beside else {})
    read = read_transcripts([written(tmp_path, value)])
    talk = TALK if is_beside else SPOKEN
    assert read.conversations == (Conversation(talk, "a"), Conversation(talk, "b"))


def test_messages_of_langchain_name_who_speaks_by_their_type(tmp_path):
    kinds = {"user": "human", "assistant": "ai"}
    rows = [{"type": kinds[role], "content": said, "session_id": "a"} for role, said in SAID]
    read = read_transcripts([written(tmp_path, as_lines(rows), "rows.jsonl")])
    assert read.conversations == (Conversation(SPOKEN, "a"),)


def test_rows_of_parquet_are_their_conversations_too(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [turn(1.0, "user", "Hi", "session_id"), turn(1.0, "assistant", "Hello", "session_id")]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    read = read_transcripts([tmp_path / "rows.parquet"])
    assert read.conversations == (Conversation(SPOKEN, "1"),)


@pytest.mark.parametrize("name", FILES)
def test_what_stands_beside_the_messages_of_rows_is_read_or_named(tmp_path, name):
    rows = [
        turn("a", "user", "Hi", domain="law", system_prompt=SYSTEM, context="A map."),
        turn("a", "assistant", "Hello", domain="law", system_prompt=SYSTEM, context="A map."),
    ]
    read = read_transcripts([written(tmp_path, FILES[name](rows), name)])
    assert read.conversations == (Conversation(TALK, "a"),)
    assert read.domains == ("law",)
    assert [note.what for note in read.notes] == ["field 'context' beside the messages left out"]


def test_a_call_of_a_tool_and_its_result_stay_in_their_rows(tmp_path):
    """The call's row has no text."""
    call = {"session_id": "a", "role": "assistant", "tool_calls": [{"id": "c1"}]}
    rows = [
        turn("a", "user", "Hi", "session_id"),
        call,
        turn("a", "tool", "42", "session_id", tool_call_id="c1"),
        turn("a", "assistant", "Hello", "session_id"),
    ]
    read = read_transcripts([written(tmp_path, as_lines(rows), "rows.jsonl")])
    assert read.conversations == (Conversation(SPOKEN, "a"),)
    assert [note.what for note in read.notes] == ["tool call left out", "tool result left out"]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (turn(None, "user", "?"), "line 3 has no conversation_id, expected one as other rows have"),
        (turn("  ", "user", "?"), "line 3 has no conversation_id"),
        ({"role": "user", "content": "?"}, "line 3 has no conversation_id"),
        (turn(["a"], "user", "?"), "line 3 has a list as conversation_id, expected text"),
        (turn(True, "user", "?"), "line 3 has a boolean as conversation_id, expected text"),
        (turn("b", "narrator", "?"), "conversation b message 1 has role 'narrator', expected"),
        (turn("b", "user", 4), "conversation b message 1 has a number as content, expected"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_costs_no_other(tmp_path, row, fault):
    rows = [turn("a", "user", "Hi"), turn("a", "assistant", "Hello"), row]
    path = written(tmp_path, as_lines(rows), "rows.jsonl")
    with pytest.raises(UsageError, match=fault):
        read_transcripts([path])
    read = read_transcripts([path], skip_unreadable=True)
    assert read.conversations == (Conversation(SPOKEN, "a"),)
    assert len(read.skipped) == 1
