"""Which conversation a request goes on with, and what is kept of it: numbers, and no text.

Requests are stateless: a conversation is known by an id that its client sends, or by a keyed hash
of the messages so far. So branches share their past, and a changed message begins anew. The key is
made when the server starts and is kept nowhere else. All HTTP processes of a server share one file.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from keel.serve.recent import RecentTurns

_SYSTEM = ("system", "developer")
_SWEPT_EVERY = 256
"""Turns between two looks for conversations that are too old or too many."""


@dataclass(frozen=True)
class MessageTurn:
    """A conversation's next turn: where its past is kept, and under which messages it stands."""

    key: bytes | None
    """Key of the conversation up to its last answer; None for one that begins here."""
    messages: tuple[tuple[str, str], ...]
    """Role and text of the messages of the request, but of an answer that is to be continued."""
    id: str | None = None
    """As the client sent it; None where the messages say which conversation it is."""
    system: str | None = None
    """Text of its system message, as it was sent; None where there is none."""
    has_past: bool = False
    """Whether its earlier messages, of which one may be the system's, are not in the request."""
    begun: str = ""
    """The beginning of an answer that is to be continued, where the continuation comes without."""
    cut_key: bytes | None = None
    """Key of the conversation that ends with that beginning; None where an answer is wanted."""


class Namer:
    """Makes keys of conversations, which nobody can make without the server's secret."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    def turn(self, body: Mapping[str, Any], *, id: str | None, sender: str) -> MessageTurn:
        """The turn that a request's body asks for; `sender` keeps clients apart.

        An answer that is continued is the turn that its beginning was.
        """
        sent = tuple(messages_of(body))
        system = next((text for role, text in sent if role in _SYSTEM), None)
        messages = tuple((role, _plain(text)) for role, text in sent)
        previous = body.get("previous_response_id")
        key, begun, cut_key = None, "", None
        if body.get("continue_final_message") is True and sent and sent[-1][0] == "assistant":
            begun = "" if body.get("echo") else sent[-1][1]
            cut_key = self.of_messages(messages, sender)
            messages = messages[:-1]
        if id is not None:
            key = self.of_id(id, sender)
        elif isinstance(previous, str):
            key = self.of_id(previous, sender)
        else:
            answers = [n for n, (role, _) in enumerate(messages) if role == "assistant"]
            if answers:
                key = self.of_messages(messages[: answers[-1] + 1], sender)
        has_past = isinstance(previous, str)
        return MessageTurn(key, messages, id, system, has_past, begun, cut_key)

    def after(self, turn: MessageTurn, answer: str, sender: str) -> bytes:
        """The key under which the turn's conversation stands once it is answered."""
        if turn.id is not None:
            return self.of_id(turn.id, sender)
        return self.of_messages(
            (*turn.messages, ("assistant", _plain(turn.begun + answer))), sender
        )

    def of_id(self, id: str, sender: str) -> bytes:
        """The key of a conversation that its client names."""
        return self._hash(["id", sender, id])

    def of_messages(self, messages: Sequence[tuple[str, str]], sender: str) -> bytes:
        """The key of a conversation that consists of these messages."""
        return self._hash(["messages", sender, *messages])

    def _hash(self, parts: Sequence[object]) -> bytes:
        text = json.dumps(parts, ensure_ascii=True).encode()
        return hashlib.blake2b(text, key=self.secret, digest_size=16).digest()


def messages_of(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Role and text of the messages in a body of chat, responses or messages; none in others."""
    for field, role in (("system", "system"), ("instructions", "system")):
        if body.get(field):
            yield role, _text_of(body[field])
    messages = body.get("messages", body.get("input"))
    if isinstance(messages, str):
        yield "user", messages
    known = [
        message
        for message in (messages if isinstance(messages, list) else ())
        if isinstance(message, Mapping) and ("role" in message or "type" in message)
    ]
    if "messages" not in body:
        yield from _answers_joined(known)
        return
    for message in known:
        text = _text_of(message.get("content")) + call_ids(message.get("tool_calls"))
        yield str(message.get("role") or message.get("type")), text


def _answers_joined(items: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Role and text of a response's input.

    An answer is several items in it: what it thought, what it says, the tools that it calls.
    """
    for is_made, group in groupby(items, _is_made):
        if is_made:
            yield "assistant", items_text(group)
            continue
        for item in group:
            text = _text_of(item.get("content", item.get("output")))
            yield str(item.get("role") or item["type"]), text


def _is_made(item: Mapping[str, Any]) -> bool:
    """Whether an item of a response's input is a part of an answer."""
    kind = str(item.get("type") or "")
    return item.get("role") == "assistant" or kind == "reasoning" or kind.endswith("_call")


def items_text(items: Iterable[Mapping[str, Any]]) -> str:
    """By what the items of a response's answer are known: what it says, and the ids of its calls.

    Thinking is left out, since clients need not send it back.
    """
    said = (item for item in items if item.get("type") != "reasoning")
    return "".join(_text_of(item.get("content")) + str(item.get("call_id") or "") for item in said)


def _text_of(content: object) -> str:
    """The text of a message's content: its own, or that of its parts. Of tool calls, their ids:
    answers that call a tool differ in nothing else."""
    if isinstance(content, str):
        return content
    texts = list[object]()
    for part in content if isinstance(content, list) else ():
        if isinstance(part, Mapping):
            texts += [part.get("text"), part.get("tool_use_id"), call_ids([part])]
            texts += [_text_of(part["content"])] if "content" in part else []
        else:
            texts.append(part)
    return "".join(text for text in texts if isinstance(text, str))


def call_ids(calls: object) -> str:
    """The ids of those parts of a message that call a tool, one after the other."""
    parts = [p for p in calls if isinstance(p, Mapping)] if isinstance(calls, list) else []
    kinds = ("function", "tool_use", None)  # a stream's later parts of a call have neither
    return "".join(str(p["id"]) for p in parts if p.get("type") in kinds and p.get("id"))


def _plain(text: str) -> str:
    """What clients that trim the answers they send back leave as it is."""
    return " ".join(text.split())


class ConversationStore:
    """States of conversations by key, and counters, in a file that several processes share.

    A state is a few hundred bytes of numbers. The oldest go where there are more than `most`, or
    where they were not used for `time_to_live_s`.
    """

    def __init__(
        self, path: Path, *, most: int = 100_000, time_to_live_s: float = 24 * 3600
    ) -> None:
        self.most, self.time_to_live_s = most, time_to_live_s
        self.base = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        self.since_swept = 0
        for line in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=OFF",
            "CREATE TABLE IF NOT EXISTS secret (value BLOB)",
            "CREATE TABLE IF NOT EXISTS states (key BLOB PRIMARY KEY, used REAL, state BLOB)"
            " WITHOUT ROWID",
            "CREATE INDEX IF NOT EXISTS by_use ON states (used)",
            "CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value REAL) WITHOUT ROWID",
        ):
            self.base.execute(line)
        self.base.execute(
            "INSERT INTO secret SELECT ? WHERE NOT EXISTS (SELECT 1 FROM secret)",
            (secrets.token_bytes(32),),
        )
        self.recent = RecentTurns(self.base)

    @property
    def secret(self) -> bytes:
        """The key of this server's hashes."""
        secret: bytes = self.base.execute("SELECT value FROM secret").fetchone()[0]
        return secret

    def get(self, key: bytes) -> bytes | None:
        """The state under a key; None where there is none, or none any more."""
        since = time.time() - self.time_to_live_s
        row = self.base.execute(
            "SELECT state FROM states WHERE key = ? AND used >= ?", (key, since)
        ).fetchone()
        return None if row is None else bytes(row[0])

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All that is written inside, or none of it. Raises sqlite3.Error where that cannot be."""
        self.base.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.base.execute("COMMIT")
        finally:
            if self.base.in_transaction:
                self.base.execute("ROLLBACK")

    def put(self, key: bytes, state: bytes) -> None:
        """Keep a state. Raises sqlite3.Error where it cannot be written."""
        row = (key, time.time(), state)
        self.base.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", row)
        self.since_swept += 1
        if self.since_swept >= _SWEPT_EVERY:
            self.sweep()

    def count(self, counts: Mapping[str, float]) -> None:
        """Add to these counters. Raises sqlite3.Error where that cannot be written."""
        self.base.executemany(
            "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE"
            " SET value = value + excluded.value",
            counts.items(),
        )

    def counts(self) -> dict[str, float]:
        """All counters."""
        return dict(self.base.execute("SELECT name, value FROM counts ORDER BY name"))

    @property
    def size(self) -> int:
        """Conversations that are kept."""
        return int(self.base.execute("SELECT COUNT(*) FROM states").fetchone()[0])

    def sweep(self) -> None:
        """Forget what is too old or too much. Raises sqlite3.Error where that cannot be written."""
        self.since_swept = 0
        oldest = time.time() - self.time_to_live_s
        self.base.execute("DELETE FROM states WHERE used < ?", (oldest,))
        self.base.execute(
            "DELETE FROM states WHERE key IN (SELECT key FROM states ORDER BY used LIMIT ?)",
            (max(0, self.size - self.most),),
        )

    def close(self) -> None:
        """Let go of the file."""
        self.base.close()
