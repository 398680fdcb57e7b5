"""Turns conversations into tokens, and says which tokens are a message's own text.

Knows no model by name: what a template adds by itself is found by rendering marks through it.
Content tokens are those that lie wholly inside a message's text: no header, no end-of-turn token,
no thinking block.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from keel.errors import ChatTemplateError
from keel.types import Conversation, Message, Speaker

PLAIN_TEMPLATE = "{{ bos_token or '' }}{% for m in messages %}{{ m['content'] }}\n\n{% endfor %}"
"""For base models, which have no chat template: texts with an empty line between them."""

_THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_CLOCK = datetime(2024, 7, 26)
"""What every template is given as now, so that the same messages are the same tokens every day."""
_DATE = f"{_CLOCK:%d %b %Y}"
_SPEAKERS: tuple[Speaker, ...] = ("system", "user", "assistant")
_TRIMMED = [trimmed for n in (0, 3, 1, 2) for trimmed in itertools.combinations(_SPEAKERS, n)]
"""Speakers whose text a template may trim: templates that trim mostly trim all."""


@dataclass(frozen=True)
class Transcript:
    """A conversation as tokens, with the content span of each assistant turn."""

    token_ids: tuple[int, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Turn:
    """Content tokens of one assistant turn: token_ids[start:stop] of the transcript."""

    turn: int
    """0-based number among the assistant turns."""
    start: int
    stop: int


@dataclass(frozen=True)
class _Rendered:
    text: str
    contents: tuple[tuple[int, int], ...]
    """Character span of each message's text."""

    @property
    def unended(self) -> _Rendered:
        """This text up to the end of the last message's text."""
        return _Rendered(self.text[: self.contents[-1][1]], self.contents)


class ChatTemplate:
    """A tokenizer's chat template: renders conversations to tokens and locates messages in them."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ChatTemplateError(
                f"{type(tokenizer).__name__} is not a fast tokenizer and gives no offsets; "
                "save the model with its tokenizer.json"
            )
        self.tokenizer = tokenizer
        self.is_plain = not getattr(tokenizer, "chat_template", None)
        self.source = PLAIN_TEMPLATE
        if not self.is_plain:
            try:
                self.source = str(tokenizer.get_chat_template())  # of several, the default one
            except ValueError as error:
                raise ChatTemplateError(
                    f"it is unclear which chat template to follow: {error}"
                ) from error

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the template's source."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @cached_property
    def supports_system(self) -> bool:
        """Whether the template renders system messages; else one is put before the user's text.

        Raises ChatTemplateError where the template fails on one instead of refusing it.
        """
        try:
            text = self._apply(_marked(("system", "user")), False)
        except Exception as error:
            if type(error) is TemplateError:  # raised by `raise_exception`, and by no mistake
                return False
            raise ChatTemplateError(
                f"the chat template fails on a system message: {error}; mend the template"
            ) from error
        return _mark(0) in text and _mark(1) in text

    @cached_property
    def injected_system(self) -> str:
        """The system prompt that the template inserts when none is given; empty if it does not."""
        if not self.supports_system:
            return ""
        before, after = self._apply(_marked(("system", "user")), False).split(_mark(0))
        bare = self._apply(_marked(("user",)), False).replace(_mark(0), _mark(1))
        if bare.startswith(before) and bare.endswith(after):
            return bare[len(before) : len(bare) - len(after)].strip()
        return ""

    @cached_property
    def preamble(self) -> str:
        """Words that the template puts before every conversation, such as a date."""
        first = "system" if self.supports_system else "user"
        text = self._apply(_marked((first, "user") if first == "system" else (first,)), False)
        words = text.split(_mark(0))[0]
        for special in self.tokenizer.all_special_tokens:
            words = words.replace(special, " ")
        words = re.sub(r"<[^>]*>", " ", words)
        return " ".join(w for w in words.split() if w.strip(":") not in _SPEAKERS)

    def facts(self) -> dict[str, str]:
        """What the template adds by itself (system prompt, date), in words for display."""
        facts = {
            "kind": "plain text (the model has no chat template)" if self.is_plain else "chat",
            "system prompts": "supported" if self.supports_system else "put before the user's text",
        }
        if self.injected_system:
            facts["system prompt put in when none is given"] = self.injected_system
        if self.preamble:
            facts["always put first"] = self.preamble
        if self.asks_clock:
            facts["clock"] = f"stands at {_DATE}"
        if "enable_thinking" in self.source:
            facts["thinking"] = "off"
        return facts

    @property
    def asks_clock(self) -> bool:
        """Whether the template asks what day it is."""
        return "strftime_now" in self.source

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """What the template is rendered with, beside messages: a fixed date, thinking off."""
        known = {
            "date_string": _DATE,
            "strftime_now": _CLOCK.strftime,
            "enable_thinking": False,
        }
        return {name: value for name, value in known.items() if name in self.source}

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Tokens up to where the assistant's answer begins.

        An assistant's last message is continued: the tokens end with its text, as the template
        renders it (one that trims messages trims this one, too), and its turn is not ended.
        """
        return list(self._head(conversation.messages).token_ids)

    def transcript(self, conversation: Conversation) -> Transcript:
        """Tokens of a whole conversation; an answer with known tokens keeps those very tokens.

        Such an answer follows the `prompt_ids` of the messages before it. It may so continue an
        assistant's message, which is then a turn of its own.
        """
        last = conversation.messages[-1]
        if last.speaker == "assistant" and last.token_ids is not None:
            return self._head(conversation.messages)
        return self._spans(self._render(conversation.messages, answer=False), conversation.messages)

    def end_tokens(self, configured: Iterable[int] = ()) -> frozenset[int]:
        """Tokens that end an answer: those configured, the tokenizer's, and the template's own."""
        ends = {*configured, self.tokenizer.eos_token_id} - {None}
        text = self._apply(_marked(("user", "assistant")), False)
        tail = text.split(_mark(1))[-1]
        first = self.tokenizer(tail, add_special_tokens=False)["input_ids"][:1]
        return frozenset(ends | (set(first) & set(self.tokenizer.all_special_ids)))

    def _head(self, messages: Sequence[Message]) -> Transcript:
        """Tokens before an answer that is to be sampled, a given beginning of it included."""
        if not messages or messages[-1].speaker != "assistant":
            return self._spans(self._render(messages, answer=True), messages)
        last = messages[-1]
        if last.token_ids is None:
            return self._spans(self._render(messages, answer=False).unended, messages)
        before = self._head(messages[:-1])
        start = len(before.token_ids)
        number = sum(m.speaker == "assistant" for m in messages[:-1])
        turn = Turn(number, start, start + len(last.token_ids))
        turns = (*before.turns, turn) if last.token_ids else before.turns
        return Transcript(before.token_ids + last.token_ids, turns)

    def _spans(self, rendered: _Rendered, messages: Sequence[Message]) -> Transcript:
        # The template has put the beginning-of-text token; the tokenizer must not put another.
        encoded = self.tokenizer(
            rendered.text, add_special_tokens=False, return_offsets_mapping=True
        )
        spans = [
            span
            for span, message in zip(rendered.contents, self._adapted(messages), strict=True)
            if message.speaker == "assistant"
        ]
        offsets = encoded["offset_mapping"]
        turns = [_turn(number, span, offsets) for number, span in enumerate(spans)]
        return Transcript(tuple(encoded["input_ids"]), tuple(t for t in turns if t.stop > t.start))

    def _adapted(self, messages: Sequence[Message]) -> list[Message]:
        """Messages in the form that the template accepts."""
        plain = [
            Message(
                m.speaker, _THINKING.sub("", m.content) if m.speaker == "assistant" else m.content
            )
            for m in messages
        ]
        if not plain or plain[0].speaker != "system" or self.supports_system:
            return plain
        if len(plain) == 1 or plain[1].speaker != "user":
            raise ChatTemplateError(
                "the chat template has no system role and there is no user message to put it before"
            )
        return [Message("user", f"{plain[0].content}\n\n{plain[1].content}"), *plain[2:]]

    def _render(self, messages: Sequence[Message], *, answer: bool) -> _Rendered:
        """The text of a conversation, with each message's span in it."""
        adapted = self._adapted(messages)
        try:
            true = self._apply([(m.speaker, m.content) for m in adapted], answer)
            marked = self._apply(_marked([m.speaker for m in adapted]), answer)
        except Exception as error:
            raise ChatTemplateError(
                f"the chat template refuses this conversation: {error}"
            ) from error
        for trimmed in _TRIMMED:
            contents = [m.content.strip() if m.speaker in trimmed else m.content for m in adapted]
            rendered = _fill(marked, contents)
            if rendered is not None and rendered.text == true:
                return rendered
        raise ChatTemplateError(
            "the chat template changes the messages' text, so their tokens cannot be told from "
            "its own; give a template that passes content through"
        )

    def _apply(self, messages: Sequence[tuple[str, str]], answer: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": speaker, "content": content} for speaker, content in messages],
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=answer,
                **self.arguments,
            )
        )


def _mark(index: int) -> str:
    return f"KEELMARK{index}KRAMLEEK"


def _marked(speakers: Sequence[str]) -> list[tuple[str, str]]:
    return [(speaker, _mark(index)) for index, speaker in enumerate(speakers)]


def _fill(marked: str, contents: Sequence[str]) -> _Rendered | None:
    """The marks replaced by texts; None where a mark got lost, doubled or moved."""
    pieces, spans, rest = "", [], marked
    for index, content in enumerate(contents):
        before, mark, rest = rest.partition(_mark(index))
        if not mark or _mark(index) in rest:
            return None
        pieces += before
        spans.append((len(pieces), len(pieces) + len(content)))
        pieces += content
    return _Rendered(pieces + rest, tuple(spans))


def _turn(number: int, span: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> Turn:
    inside = [
        index for index, (start, stop) in enumerate(offsets) if span[0] <= start < stop <= span[1]
    ]
    return Turn(number, inside[0], inside[-1] + 1) if inside else Turn(number, 0, 0)
