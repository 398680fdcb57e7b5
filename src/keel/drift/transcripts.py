"""Reads conversations from common transcript formats. Knows nothing of models.

Understood are the reference's transcripts, `{"conversation": [{"role", "content"}, ...]}`, and
OpenAI's `{"messages": [...]}`; as one JSON object, a list of them, a bare list of messages, or
JSON Lines. Only text is read: what cannot be read as text is refused, never left out. Thinking in
a field or a part of its own is kept apart from the answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keel.errors import MissingArtifactError, UsageError
from keel.types import Conversation, Message, Speaker

_SPEAKERS: dict[str, Speaker] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}

_SHAPES = 'expected {"conversation": [...]}, {"messages": [...]} or a list of messages'


def read_conversations(path: str | Path) -> list[Conversation]:
    """The conversations of a JSON or JSON Lines file, in the file's order.

    Ids are the file's `conversation_id`s, else the file's name, numbered from 1 if it holds
    several. Raises MissingArtifactError if there is no file, UsageError with the location of
    anything in it that cannot be read.
    """
    path = Path(path)
    values = list(_values(path))
    return [
        _conversation(value, location, path.stem if len(values) == 1 else f"{path.stem}#{number}")
        for number, (value, location) in enumerate(values, 1)
    ]


def _values(path: Path) -> Iterator[tuple[Any, str]]:
    """Each conversation's JSON value, with its location in words."""
    text = _text(path)
    if path.suffix in (".jsonl", ".ndjson") or _is_lines(text):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield _parsed(line, f"{path} line {number}"), f"{path} line {number}"
        return
    whole = _parsed(text, str(path))
    # A list is one conversation's messages, or several conversations; an empty one has no message.
    if not isinstance(whole, list) or not whole or "role" in _object(whole[0]):
        yield whole, str(path)
        return
    for number, value in enumerate(whole, 1):
        yield value, f"{path} conversation {number}"


def _text(path: Path) -> str:
    if not path.exists():
        raise MissingArtifactError(f"no file {path}; give the path of a transcript")
    if path.is_dir():
        raise UsageError(f"{path} is a folder, expected a file; name its files, e.g. {path}/*.json")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 at byte {error.start}, expected JSON text; convert it to UTF-8"
        ) from None
    if not text.strip():
        raise UsageError(f"{path} is empty, expected a conversation; save the transcript again")
    return text


def _is_lines(text: str) -> bool:
    """Whether the text is JSON Lines: its first line is whole, and more follow."""
    first, _, rest = text.strip().partition("\n")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return bool(rest.strip())


def _parsed(text: str, location: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        column = where if "\n" in text else f"column {error.colno}"
        raise UsageError(
            f"{location} is not valid JSON at {column}: {error.msg}; expected a transcript, one "
            "conversation per file, or one per line; mend it there"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{location} cannot be read as JSON: {error}; mend the file") from None


def _conversation(value: Any, location: str, name: str) -> Conversation:
    """The conversation under its own id, or this name."""
    messages = value
    if isinstance(value, dict):
        keys = [key for key in ("conversation", "messages") if key in value]
        if not keys:
            raise UsageError(f"{location} has {_keys(value)}, {_SHAPES}; rename its key")
        messages = value[keys[0]]
    if not isinstance(messages, list):
        raise UsageError(f"{location} holds {_kind(messages)}, {_SHAPES}; wrap the messages")
    if not messages:
        raise UsageError(f"{location} has no messages, expected at least one; remove it")
    read = tuple(_message(message, n, location) for n, message in enumerate(messages, 1))
    own_id = _object(value).get("conversation_id")
    if own_id is not None and not isinstance(own_id, str | int):
        raise UsageError(
            f"{location} has {_kind(own_id)} as conversation_id, expected text; remove it"
        )
    return Conversation(read, name if own_id in (None, "") else str(own_id))


def _message(value: Any, number: int, location: str) -> Message:
    location = f"{location} message {number}"
    if not isinstance(value, dict) or "role" not in value:
        what = _keys(value) if isinstance(value, dict) else _kind(value)
        raise UsageError(f"{location} is {what}, expected an object with role and content; mend it")
    role = value["role"]
    speaker = _SPEAKERS.get(role) if isinstance(role, str) else None
    if speaker is None:
        raise UsageError(
            f"{location} has role {role!r}, expected system, user or assistant; remove the message"
        )
    if speaker == "system" and number > 1:
        raise UsageError(
            f"{location} has role {role!r}, expected only as message 1; move its text there"
        )
    if value.get("tool_calls") or value.get("function_call"):
        raise UsageError(f"{location} calls tools, expected text alone; remove the calls")
    content, thinking = value.get("content"), ""
    if speaker == "assistant":
        thinking = _thinking(value, location)
        if isinstance(content, list):  # as in Mistral's and Anthropic's messages
            blocks = [_object(part).get("thinking") for part in content]
            content = [part for part, block in zip(content, blocks, strict=True) if block is None]
            thoughts = [_content(block, location) for block in blocks if block is not None]
            thinking = "\n\n".join([*filter(None, [thinking]), *thoughts])
        if content is None and thinking:  # cut off before an answer began
            content = ""
    return Message(speaker, _content(content, location), thinking=thinking)


def _thinking(value: dict[str, Any], location: str) -> str:
    """What stands in a field of its own: vLLM, DeepSeek, Ollama and gpt-oss have three names."""
    for name in ("reasoning_content", "reasoning", "thinking"):
        if value.get(name):
            return _content(value[name], f"{location} field {name}")
    return ""


def _content(content: Any, location: str) -> str:
    """The text of a message, its parts joined; refuses anything that is not text."""
    if isinstance(content, list):
        content = "".join(_part(part, n, location) for n, part in enumerate(content, 1))
    if not isinstance(content, str):
        raise UsageError(f"{location} has {_kind(content)} as content, expected text; mend it")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{location} holds half a character at place {error.start} ({content[error.start]!r}), "
            "expected whole ones; remove it"
        ) from None
    return content


def _part(part: Any, number: int, location: str) -> str:
    if not isinstance(part, dict):
        raise UsageError(f"{location} part {number} is {_kind(part)}, expected an object; mend it")
    text = part.get("text")
    if part.get("type") != "text" or not isinstance(text, str):
        raise UsageError(
            f"{location} part {number} is of type {part.get('type')!r} with {_kind(text)} as text, "
            "expected 'text' with text; only that can be read: remove the part"
        )
    return text


def _object(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _keys(value: dict[str, Any]) -> str:
    return "keys " + ", ".join(map(repr, list(value)[:6])) if value else "no keys"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
