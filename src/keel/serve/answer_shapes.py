"""Finds the answers in what vLLM's endpoints send: their text, and where each ends.

Of chat completions, completions, responses and messages, whole or streamed. Knows no HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from keel.serve.conversations import call_ids, items_text

EXTRA = "keel"
"""Field that is added to each answer that has ended."""
_EVENT_END = b"\n\n"
_DATA = b"data: "
_RESPONSE_ENDS = ("response.completed", "response.incomplete")


@dataclass(frozen=True)
class AnswerPart:
    """A part of one answer, or all of it."""

    index: int
    """Which of the answers of its HTTP request, from 0."""
    text: str
    ended: dict[str, Any] | None = None
    """Where the answer's end stands; None while there is more to come."""
    id: str | None = None
    """By which the client may go on with the conversation."""
    within: dict[str, Any] | None = None
    """What carries this part, of an answer that goes on."""
    calls_tool: bool = False
    """Whether it calls a tool of the client's, whose result is to be answered next."""


def parts_of(content: Any) -> Iterator[AnswerPart]:
    """The answers in an endpoint's JSON object, or in one of the events of a stream."""
    if not isinstance(content, dict):
        return
    kind = content.get("type")
    if isinstance(content.get("choices"), list):
        for choice in content["choices"]:
            said = choice.get("message") or choice.get("delta") or {}
            text = choice.get("text") or said.get("content") or ""
            text += call_ids(said.get("tool_calls"))
            is_ended = choice.get("finish_reason") is not None
            ended, within = (choice, None) if is_ended else (None, choice)
            calls = bool(said.get("tool_calls") or said.get("function_call"))
            yield AnswerPart(int(choice.get("index", 0)), text, ended, None, within, calls)
    elif content.get("object") == "response" and content.get("status") != "in_progress":
        items = content.get("output") or [{}]
        calls = str(items[-1].get("type")).endswith("_call")
        yield AnswerPart(0, items_text(items), content, content.get("id"), None, calls)
    elif kind in _RESPONSE_ENDS:
        yield from parts_of(content.get("response"))
    elif kind == "message":
        blocks = content.get("content") or ()
        texts = (block.get("text") or call_ids([block]) for block in blocks)
        ended = content if content.get("stop_reason") else None
        yield AnswerPart(0, "".join(texts), ended, calls_tool=bool(call_ids(blocks)))
    elif kind == "content_block_start":
        call = call_ids([content.get("content_block")])
        yield AnswerPart(0, call, within=content, calls_tool=bool(call))
    elif kind == "content_block_delta":
        yield AnswerPart(0, content["delta"].get("text") or "", within=content)
    elif kind == "response.output_text.delta":
        yield AnswerPart(0, "", within=content)  # its end holds the text
    elif kind == "message_delta" and content["delta"].get("stop_reason"):
        yield AnswerPart(0, "", content)


Judge = Callable[[AnswerPart, str], Mapping[str, Any] | None]
"""Takes the part that ends an answer, and its whole text, or a part of one that goes on and no
text; gives what is added to it."""


class AnswerStream:
    """Adds to the answers of one HTTP request what is judged of them, at their end."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.texts: dict[int, list[str]] = {}
        self.calling: set[int] = set()
        self.left = b""

    def whole(self, body: bytes) -> bytes:
        """An answer that came in one piece."""
        try:
            content = json.loads(body)
        except ValueError:
            return body
        return json.dumps(content, ensure_ascii=False).encode() if self._take(content) else body

    def events(self, chunk: bytes, *, is_last: bool) -> bytes:
        """Some bytes of a stream of events; what is not yet a whole event waits for more."""
        *events, self.left = (self.left + chunk).split(_EVENT_END)
        done = b"".join(self._event(event) + _EVENT_END for event in events)
        if is_last and self.left:
            done, self.left = done + self.left, b""
        return done

    def _event(self, event: bytes) -> bytes:
        lines = event.split(b"\n")
        for number, line in enumerate(lines):
            if not line.startswith(_DATA) or line == b"data: [DONE]":
                continue
            try:
                content = json.loads(line[len(_DATA) :])
            except ValueError:
                continue
            if self._take(content):
                lines[number] = _DATA + json.dumps(content, ensure_ascii=False).encode()
        return b"\n".join(lines)

    def _take(self, content: Any) -> bool:
        """Note texts, and judge what has ended; whether something was added."""
        is_added = False
        for part in parts_of(content):
            texts = self.texts.setdefault(part.index, [])
            if part.ended is not None and part.id is not None:
                texts.clear()  # the end holds all of it
            texts.append(part.text)
            self.calling |= {part.index} if part.calls_tool else set()
            carrier = part.within if part.ended is None else part.ended
            text = "" if part.ended is None else "".join(texts)
            known = replace(part, calls_tool=part.index in self.calling)
            judged = None if carrier is None else self.judge(known, text)
            if carrier is not None and judged is not None:
                carrier[EXTRA] = judged
                is_added = True
        return is_added
