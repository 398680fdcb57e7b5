"""Messages as many programs write them, as text. What is not text is left out and noted.

Speaker and text have a few names each over all programs. Thinking that stands in a field or a part
of its own is kept apart from the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keel.errors import UsageError
from keel.types import Message, Speaker

_SPEAKERS: dict[str, Speaker] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "you"), "user"),
    **dict.fromkeys(
        ("assistant", "ai", "gpt", "chatgpt", "claude", "gemini", "model", "bot", "bing", "bard"),
        "assistant",
    ),
    # In other languages, as people write a talk down.
    **dict.fromkeys(
        (
            *("benutzer", "nutzer", "mensch", "utilisateur", "usuario", "usuário", "utente"),
            *(
                "gebruiker",
                "пользователь",
                "用户",
                "用戶",
                "使用者",
                "ユーザー",
                "사용자",
                "المستخدم",
            ),
        ),
        "user",
    ),
    **dict.fromkeys(
        (
            *("assistent", "ki", "ia", "asistente", "assistente", "ассистент", "помощник"),
            *("助手", "助理", "アシスタント", "어시스턴트", "المساعد"),
        ),
        "assistant",
    ),
}
_TOOLS = frozenset({
    *("tool", "function", "ipython", "observation", "environment", "tool_response"),
    *("function_response", "function_call", "tool_call", "tool_result"),
})  # fmt: skip
SPEAKER_KEYS = ("role", "from", "speaker", "sender", "author")
TEXT_KEYS = ("content", "value", "text", "message", "parts")
_THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""vLLM, DeepSeek, Ollama and gpt-oss have three names."""
_BESIDE = ("attachments", "files", "images", "audio")
_TEXT_PARTS = ("text", "input_text", "output_text", "summary_text", "audio_transcription", None)


@dataclass(frozen=True)
class Note:
    """What a conversation's reading differs in from what its model saw."""

    location: str
    what: str
    """Such as `image left out`: equal ones are counted together."""


def is_speaker(name: str) -> bool:
    """Whether a word names who speaks."""
    return name.lower() in _SPEAKERS


def speaker_of(name: str) -> Speaker:
    """Who speaks, by a word that names it."""
    return _SPEAKERS[name.lower()]


def is_role(name: str) -> bool:
    """Whether a word names a speaker or a tool."""
    return name.strip().lower() in (*_SPEAKERS, *_TOOLS)


def is_dump(value: Any) -> bool:
    """Whether a value is one message as LangChain dumps it: a constructor's, or type and data."""
    if not isinstance(value, dict):
        return False
    names = value.get("id")
    is_built = isinstance(value.get("kwargs"), dict) and isinstance(names, list) and bool(names)
    return is_built or (isinstance(value.get("data"), dict) and isinstance(value.get("type"), str))


def read_messages(
    raw: Sequence[Any], location: str, notes: list[Note], system: Sequence[str] = ()
) -> tuple[Message, ...]:
    """The messages in order, at most one system message, and that one first.

    `system` are texts that stood beside the messages: they go before a first system message.
    A later system message is read with the user's text after it, as a chat template without a
    system role has it. Where a message is left out between two of one speaker, they become one, and
    so do two of which either has no text.
    Adds to `notes`. Raises UsageError with the location of what cannot be read at all.
    """
    read: list[Message] = []
    opening, late = list(system), ""
    is_gap = False
    for number, value in enumerate(raw, 1):
        where = f"{location} message {number}"
        message = _read(value, where, notes)
        if message is None:
            is_gap = True
        elif message.speaker == "system" and not read:
            opening += [message.content] if message.content.strip() else []
        elif message.speaker == "system" and message.content.strip():
            notes.append(Note(where, "later system message read with the user's text"))
            late = _joined(late, message.content)
        elif message.speaker != "system":
            if late and message.speaker == "assistant":
                _append(read, Message("user", late), joins=True)
            elif late:
                message = replace(message, content=_joined(late, message.content))
            has_text = bool(message.content and (not read or read[-1].content))
            _append(read, message, joins=is_gap or not has_text)
            late, is_gap = "", False
    if late:
        _append(read, Message("user", late), joins=True)
    if len(opening) > 1:
        notes.append(Note(location, "system messages read as a single system message"))
    return (*([Message("system", "\n\n".join(opening))] if opening else []), *read)


def _append(read: list[Message], message: Message, *, joins: bool) -> None:
    """Append, or join with the last where that is of the same speaker."""
    if not (joins and read and read[-1].speaker == message.speaker):
        read.append(message)
        return
    read[-1] = replace(
        read[-1],
        content=_joined(read[-1].content, message.content),
        thinking=_joined(read[-1].thinking, message.thinking),
    )


def _joined(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)


def _read(value: Any, location: str, notes: list[Note]) -> Message | None:
    """One message; None where it has no text to read, which is noted."""
    if not isinstance(value, dict):
        raise UsageError(
            f"{location} is {kind_of(value)}, expected an object with role and content; mend it"
        )
    role = next((value[key] for key in SPEAKER_KEYS if key in value), None)
    role = role.get("role") if isinstance(role, dict) else role
    kind = value.get("type")
    if role is None and isinstance(kind, str) and is_speaker(kind):  # LangChain's
        role = kind
    if isinstance(kind, str) and (role is None or kind.endswith(("_call", "_call_output"))):
        return _item(value, kind, location, notes)
    if role is None:
        names = ", ".join(map(repr, list(value)[:6])) or "none"
        raise UsageError(
            f"{location} is keys {names}, expected an object with role and content; mend it"
        )
    name = role.strip().lower() if isinstance(role, str) else ""
    if name in _TOOLS:
        what = "tool call" if name.endswith("_call") else "tool result"
        notes.append(Note(location, f"{what} left out"))
        return None
    if name not in _SPEAKERS:
        raise UsageError(
            f"{location} has role {role!r}, expected system, user or assistant; rename or remove "
            "the message"
        )
    return _of_speaker(value, _SPEAKERS[name], location, notes)


def _item(value: dict[str, Any], kind: str, location: str, notes: list[Note]) -> Message | None:
    """An item of OpenAI's Responses that nobody speaks: thinking is kept, the rest noted."""
    if kind == "reasoning":
        thinking = text_of(value.get("summary") or value.get("content"), location, notes)
        return Message("assistant", "", thinking=thinking) if thinking else None
    what = "tool result" if kind.endswith("_output") else "tool call"
    notes.append(Note(location, f"{what if '_call' in kind else kind} left out"))
    return None


def _of_speaker(
    value: dict[str, Any], speaker: Speaker, location: str, notes: list[Note]
) -> Message | None:
    before = len(notes)
    if value.get("tool_calls") or value.get("function_call"):
        notes.append(Note(location, "tool call left out"))
    notes += [Note(location, f"{name} left out") for name in _BESIDE if value.get(name)]
    content = next((value[key] for key in TEXT_KEYS if value.get(key) not in (None, [])), None)
    thinking = ""
    if speaker == "assistant":
        blocks = [_thinking(part) for part in content] if isinstance(content, list) else []
        thoughts = [value.get(key) for key in _THINKING_KEYS] + blocks
        thinking = _joined(*(text_of(each, location, notes) for each in thoughts if each))
        if blocks:
            content = [p for p, block in zip(content or [], blocks, strict=True) if block is None]
    if content is None:
        content = value.get("refusal")
    text = "" if content is None else text_of(content, location, notes)
    if text or thinking:
        return Message(speaker, text, thinking=thinking)
    # A tool's call or result goes with the answer that follows. Anything else without text was a
    # turn: a server counts it, and so does whoever reads the file.
    noted = [note.what for note in notes[before:]]
    if noted and all(what.startswith("tool ") for what in noted):
        return None
    if content is None and not noted:
        notes.append(Note(location, "message without text read as an empty turn"))
    return Message(speaker, "")


def _thinking(part: Any) -> Any:
    """What a part of thinking holds, of all programs' kinds; None for other parts."""
    if not isinstance(part, dict):
        return None
    if part.get("type") == "redacted_thinking":
        return ""
    if part.get("thought") is True:  # Gemini's
        return part.get("text")
    if isinstance(inner := part.get("reasoningContent"), dict):  # Bedrock's
        return (inner.get("reasoningText") or {}).get("text", "")
    return part.get("thinking", part.get("reasoning"))


def text_of(content: Any, location: str, notes: list[Note]) -> str:
    """The text of a message, its parts joined; what is no text is noted."""
    if isinstance(content, dict):
        content = content.get("parts", [content])
    if isinstance(content, list):
        content = "".join(_texts_of(content, location, notes))
    if not isinstance(content, str):
        raise UsageError(f"{location} has {kind_of(content)} as content, expected text; mend it")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{location} holds half a character at place {error.start} ({content[error.start]!r}), "
            "expected whole ones; remove it"
        ) from None
    return content


def _texts_of(parts: Iterable[Any], location: str, notes: list[Note]) -> Iterator[str]:
    for number, part in enumerate(parts, 1):
        if isinstance(part, str):
            yield part
            continue
        if not isinstance(part, dict):
            raise UsageError(
                f"{location} part {number} is {kind_of(part)}, expected text or an object; mend it"
            )
        kind = part.get("type", part.get("content_type"))
        text = part.get("refusal") if kind == "refusal" else part.get("text")
        if kind in (*_TEXT_PARTS, "refusal") and isinstance(text, str):
            yield text
        else:
            notes.append(Note(f"{location} part {number}", f"{_part_name(part, kind)} left out"))


def _part_name(part: dict[str, Any], kind: Any) -> str:
    """A part in a word that is the same over programs: image, tool call, tool result."""
    name = str(kind) if kind else next(iter(part), "empty part")
    for word, marks in (
        ("image", ("image",)),
        ("audio", ("audio",)),
        ("tool result", ("result", "output", "response")),
        ("tool call", ("tool_use", "tooluse", "call")),
    ):
        if any(mark in name.lower() for mark in marks):
            return word
    return f"part of type {name!r}"


def kind_of(value: Any) -> str:
    """A JSON value's type in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
