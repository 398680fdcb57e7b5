"""Reads conversations from files that people have. Knows nothing of models.

Understood are the reference's transcripts, `{"conversation": [{"role", "content"}, ...]}`, and
OpenAI's `{"messages": [...]}`; as one JSON object, a list of them, a bare list of messages, or
JSON Lines. Only text is read: what cannot be read as text is refused, never left out.
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

    Ids are the file's `conversation_id`s, else its name, numbered from 1 where it holds several.
    Raises MissingArtifactError where there is no file, UsageError naming the place of whatever
    in it cannot be understood.
    """
    path = Path(path)
    found = [_Found(value, place) for value, place in _values(path)]
    names = [path.stem] if len(found) == 1 else [f"{path.stem}#{n + 1}" for n in range(len(found))]
    return [one.conversation(name) for one, name in zip(found, names, strict=True)]


def _values(path: Path) -> Iterator[tuple[Any, str]]:
    """What the file holds, conversation by conversation, each with its place in words."""
    text = _text(path)
    if path.suffix in (".jsonl", ".ndjson") or _is_lines(text):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield _parsed(line, f"{path} line {number}"), f"{path} line {number}"
        return
    whole = _parsed(text, str(path))
    if not isinstance(whole, list) or _is_messages(whole):
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


def _is_messages(values: list[Any]) -> bool:
    """Whether a list is one conversation's messages; an empty one is, and has none."""
    return not values or (isinstance(values[0], dict) and "role" in values[0])


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        column = where if "\n" in text else f"column {error.colno}"
        raise UsageError(
            f"{place} is not valid JSON at {column}: {error.msg}; expected a transcript, one "
            "conversation per file, or one per line; mend it there"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place} cannot be read as JSON: {error}; mend the file") from None


class _Found:
    """One conversation as it stands in a file."""

    def __init__(self, value: Any, place: str) -> None:
        self.value, self.place = value, place

    def conversation(self, name: str) -> Conversation:
        """The conversation under its own id, or this name."""
        raw = self._raw_messages()
        messages = [_message(value, n, self.place) for n, value in enumerate(raw, 1)]
        return Conversation(tuple(messages), self._own_id() or name)

    def _raw_messages(self) -> list[Any]:
        value = self.value
        if isinstance(value, dict):
            keys = [key for key in ("conversation", "messages") if key in value]
            if not keys:
                raise UsageError(f"{self.place} has {_keys(value)}, {_SHAPES}; rename its key")
            value = value[keys[0]]
        if not isinstance(value, list):
            raise UsageError(f"{self.place} holds {_kind(value)}, {_SHAPES}; wrap the messages")
        if not value:
            raise UsageError(f"{self.place} has no messages, expected at least one; remove it")
        return value

    def _own_id(self) -> str:
        own = self.value.get("conversation_id") if isinstance(self.value, dict) else None
        if own is not None and not isinstance(own, str | int):
            raise UsageError(
                f"{self.place} has {_kind(own)} as conversation_id, expected text; remove it"
            )
        return "" if own is None else str(own)


def _message(value: Any, number: int, place: str) -> Message:
    place = f"{place} message {number}"
    if not isinstance(value, dict) or "role" not in value:
        what = _keys(value) if isinstance(value, dict) else _kind(value)
        raise UsageError(f"{place} is {what}, expected an object with role and content; mend it")
    role = value["role"]
    speaker = _SPEAKERS.get(role) if isinstance(role, str) else None
    if speaker is None:
        raise UsageError(
            f"{place} has role {role!r}, expected system, user or assistant; remove the message"
        )
    if speaker == "system" and number > 1:
        raise UsageError(
            f"{place} has role {role!r}, expected only as message 1; move its text there"
        )
    if value.get("tool_calls") or value.get("function_call"):
        raise UsageError(f"{place} calls tools, expected text alone; remove the calls")
    return Message(speaker, _content(value.get("content"), place))


def _content(content: Any, place: str) -> str:
    """The text of a message, its parts joined; refuses anything that is not text."""
    if isinstance(content, list):
        content = "".join(_part(part, n, place) for n, part in enumerate(content, 1))
    if not isinstance(content, str):
        raise UsageError(f"{place} has {_kind(content)} as content, expected text; mend it")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{place} holds half a character at place {error.start} ({content[error.start]!r}), "
            "expected whole ones; remove it"
        ) from None
    return content


def _part(part: Any, number: int, place: str) -> str:
    if not isinstance(part, dict):
        raise UsageError(f"{place} part {number} is {_kind(part)}, expected an object; mend it")
    text = part.get("text")
    if part.get("type") != "text" or not isinstance(text, str):
        raise UsageError(
            f"{place} part {number} is of type {part.get('type')!r} with {_kind(text)} as text, "
            "expected 'text' with text; only that can be read: remove the part"
        )
    return text


def _keys(value: dict[str, Any]) -> str:
    return "keys " + ", ".join(map(repr, list(value)[:6])) if value else "no keys"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
