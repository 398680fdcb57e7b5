"""Files that people have become conversations, or an error that names the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keel.drift import read_conversations
from keel.errors import MissingArtifactError, UsageError
from keel.types import Conversation, Message

REFERENCE = Path(__file__).resolve().parents[3] / "shared/data/reference/transcripts"

HELLO = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
TALK = (Message("user", "Hi"), Message("assistant", "Hello"))


def written(folder: Path, text: object, name: str = "talk.json") -> Path:
    path = folder / name
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "id", "turns"),
    [
        ("coding", None, 15),
        ("philosophy", None, None),
        ("therapy", "therapy_p10_t8_208", 15),
        ("writing", None, 14),
    ],
)
def test_the_references_own_transcripts_are_read_whole(name, id, turns):
    """`turns` counts messages in these files (30 for 15 turns), so it cannot be what is used."""
    path = REFERENCE / f"{name}.json"
    if not path.exists():
        pytest.skip(f"the reference's transcripts are not beside the project ({path.name})")
    raw = json.loads(path.read_text())
    (talk,) = read_conversations(path)
    assert [(m.speaker, m.content) for m in talk.messages] == [
        (m["role"], m["content"]) for m in raw["conversation"]
    ]
    assert talk.id == (id or raw.get("conversation_id") or name)
    if turns is not None:
        assert sum(m.speaker == "assistant" for m in talk.messages) == turns


@pytest.mark.parametrize(
    "value", [{"conversation": HELLO, "turns": 99, "model": "m"}, {"messages": HELLO}, HELLO]
)
def test_every_shape_of_one_conversation_reads_alike(tmp_path, value):
    assert read_conversations(written(tmp_path, value)) == [Conversation(TALK, "talk")]


def test_a_list_of_conversations_is_numbered_unless_they_name_themselves(tmp_path):
    value = [{"messages": HELLO}, {"messages": HELLO, "conversation_id": "mine"}, HELLO]
    found = read_conversations(written(tmp_path, value))
    assert [talk.id for talk in found] == ["talk#1", "mine", "talk#3"]
    assert {talk.messages for talk in found} == {TALK}


@pytest.mark.parametrize("name", ["talk.jsonl", "talk.ndjson", "talk.json", "talk.txt"])
def test_json_lines_are_known_by_name_or_by_looks(tmp_path, name):
    lines = json.dumps({"messages": HELLO}) + "\n\n" + json.dumps({"conversation": HELLO}) + "\n"
    found = read_conversations(written(tmp_path, lines, name))
    assert found == [Conversation(TALK, "talk#1"), Conversation(TALK, "talk#2")]


def test_one_line_of_json_lines_keeps_the_files_name(tmp_path):
    (talk,) = read_conversations(written(tmp_path, {"messages": HELLO}, "talk.jsonl"))
    assert talk.id == "talk"


def test_parts_of_text_are_joined_and_a_developer_is_the_system(tmp_path):
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]
    value = [{"role": "developer", "content": parts}, *HELLO]
    (talk,) = read_conversations(written(tmp_path, value))
    assert talk.system == "Be kind."


def test_line_separators_inside_a_text_do_not_split_a_line(tmp_path):
    """JSON leaves U+2028 and U+0085 as they are; only a newline ends a line of JSON Lines."""
    line = json.dumps([{"role": "user", "content": "a\u2028b\x85c"}], ensure_ascii=False)
    found = read_conversations(written(tmp_path, f"{line}\n{line}", "talk.jsonl"))
    assert [talk.messages[0].content for talk in found] == ["a\u2028b\x85c"] * 2


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    path = tmp_path / "talk.jsonl"
    line = json.dumps({"messages": HELLO}).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + line + b"\r\n")
    assert [talk.messages for talk in read_conversations(path)] == [TALK, TALK]


def test_a_transcript_without_answers_is_read_since_a_replay_needs_none(tmp_path):
    (talk,) = read_conversations(written(tmp_path, HELLO[:1]))
    assert talk.messages == TALK[:1]


USER = HELLO[0]

REFUSED = {
    "only a tool's result": ([{"role": "tool", "content": "3"}], r"no message with text"),
    "empty file": (" \n", r"talk.json is empty"),
    "not JSON": ('{"messages": [}', r"talk.json is not valid JSON at column 15"),
    "not JSON far down": ('{\n "messages":\n x}', r"not valid JSON at line 3 column 2"),
    "too deep": ("[" * 100_000, r"talk.json cannot be read as JSON"),
    "no messages": ({"messages": []}, r"talk.json has no messages"),
    "empty list": ([], r"talk.json has no messages"),
    "another key": ({"dialog": []}, r"talk.json has keys 'dialog', expected"),
    "empty object": ({}, r"talk.json has no keys, expected"),
    "a number": (3, r"talk.json holds a number, expected"),
    "messages as text": ({"messages": "hi"}, r"talk.json holds text, expected"),
    "list of numbers": ([1, 2], r"talk.json conversation 1 holds a number"),
    "message as text": ({"messages": ["hi"]}, r"message 1 is text, expected an object with role"),
    "message without role": ({"messages": [{"content": "x"}]}, r"message 1 is keys 'content'"),
    "role is a list": ([{"role": ["user"], "content": "x"}], r"message 1 has role \['user'\]"),
    "content a number": ([{"role": "user", "content": 3}], r"message 1 has a number as content"),
    "half a character": ('[{"role": "user", "content": "a\\ud83e"}]', r"half a character at place"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line_with_its_place(tmp_path, case):
    value, expected = REFUSED[case]
    with pytest.raises(UsageError, match=expected) as caught:
        read_conversations(written(tmp_path, value))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ("{oops", r"talk.jsonl line 3 is not valid JSON at column 2"),
        ('{"messages": [{"role": "x"}]}', r"talk.jsonl line 3 message 1 has role 'x'"),
        (json.dumps(USER), r"talk.jsonl line 3 has keys 'role', 'content', expected"),
    ],
)
def test_a_fault_in_json_lines_is_named_by_its_line(tmp_path, second, expected):
    lines = json.dumps({"messages": HELLO}) + "\n\n" + second
    with pytest.raises(UsageError, match=expected):
        read_conversations(written(tmp_path, lines, "talk.jsonl"))


def test_a_missing_file_a_folder_and_bytes_are_told_apart(tmp_path):
    with pytest.raises(MissingArtifactError, match=r"no file .*absent.json"):
        read_conversations(tmp_path / "absent.json")
    with pytest.raises(UsageError, match="is a folder, expected a file"):
        read_conversations(tmp_path)
    path = tmp_path / "talk.json"
    path.write_bytes(b'[{"role": "\xff"}]')
    with pytest.raises(UsageError, match="not UTF-8 at byte 11"):
        read_conversations(path)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thinking_in_a_field_of_its_own_is_kept_apart(tmp_path, name):
    """Once, it was dropped without a word."""
    answer = {"role": "assistant", "content": "good day", name: "well, well"}
    path = tmp_path / "talk.json"
    path.write_text(json.dumps([{"role": "user", "content": "hi"}, answer]))
    (talk,) = read_conversations(path)
    assert talk.messages[-1] == Message("assistant", "good day", thinking="well, well")


def test_thinking_in_a_part_of_its_own_is_kept_apart(tmp_path):
    parts = [
        {"type": "thinking", "thinking": "well, well", "signature": "x"},
        {"type": "text", "text": "good day"},
    ]
    nested = [{"type": "thinking", "thinking": [{"type": "text", "text": "well, well"}]}, parts[1]]
    for content in (parts, nested):
        path = tmp_path / "talk.json"
        path.write_text(json.dumps([{"role": "assistant", "content": content}]))
        (talk,) = read_conversations(path)
        assert talk.messages[-1] == Message("assistant", "good day", thinking="well, well")


def test_thinking_without_an_answer_is_a_turn_that_was_cut_off(tmp_path):
    path = tmp_path / "talk.json"
    path.write_text(json.dumps([{"role": "assistant", "content": None, "reasoning": "well"}]))
    (talk,) = read_conversations(path)
    assert talk.messages[-1] == Message("assistant", "", thinking="well")
