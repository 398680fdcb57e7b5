"""Turns conversations into tokens, and says which tokens are a message's own text.

Knows no model by name: what a template adds by itself is found by rendering marks through it.
Content tokens are those that lie wholly inside a message's text: no header, no end-of-turn token,
no thinking block.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from keel.engines.rendering import Rendered, before_marks, locate, mark, marked
from keel.errors import ChatTemplateError
from keel.types import Conversation, Message, Speaker

PLAIN_TEMPLATE = "{{ bos_token or '' }}{% for m in messages %}{{ m['content'] }}\n\n{% endfor %}"
"""For base models, which have no chat template: texts with an empty line between them."""

_THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_CLOCK = datetime(2024, 7, 26)
"""What every template is given as now, so that the same messages are the same tokens every day."""
_DATE = f"{_CLOCK:%d %b %Y}"
_SPEAKERS = ("system", "user", "assistant")


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
            text = self._apply(marked(("system", "user")), False)
        except ChatTemplateError as error:
            cause = error.__cause__
            if type(cause) is TemplateError:  # raised by `raise_exception`, and by no mistake
                return False
            failing = "a system message"
            try:
                self._apply(marked(("user",)), False)
            except ChatTemplateError:
                failing = "any message"
            raise ChatTemplateError(
                f"the chat template fails on {failing}: {cause}; mend the template"
            ) from cause
        return mark(0) in text and mark(1) in text

    @cached_property
    def injected_system(self) -> str:
        """The system prompt that the template inserts when none is given; empty if it does not."""
        if not self.supports_system:
            return ""
        before, after = self._apply(marked(("system", "user")), False).split(mark(0))
        bare = self._apply(marked(("user",)), False).replace(mark(0), mark(1))
        if bare.startswith(before) and bare.endswith(after):
            return bare[len(before) : len(bare) - len(after)].strip()
        return ""

    @cached_property
    def preamble(self) -> str:
        """Words that the template puts before every conversation, such as a date."""
        speakers: tuple[Speaker, ...] = ("system", "user") if self.supports_system else ("user",)
        text = self._apply(marked(speakers), False)
        words = before_marks(text)
        for special in self.tokenizer.all_special_tokens:
            words = words.replace(special, " ")
        words = re.sub(r"<[^>]*>|\[/?[A-Z_]+\]", " ", words)
        return " ".join(w for w in words.split() if w.strip(":") not in _SPEAKERS)

    def facts(self) -> dict[str, str]:
        """What the template adds by itself (system prompt, date), in words for display."""
        facts = {
            "kind": "plain text (the model has no chat template)" if self.is_plain else "chat",
            "system prompts": self._system_fact,
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
    def _system_fact(self) -> str:
        if not self.supports_system:
            return "put before the user's text"
        with suppress(ChatTemplateError):
            text = self._apply(marked(("system", "user", "assistant", "user")), True)
            if mark(0) in text and text.index(mark(0)) > text.index(mark(1)):
                return "moved to the last user's text by the template"
        return "supported"

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
        text = self._apply(marked(("user", "assistant")), False)
        tail = text.split(mark(1))[-1]
        first = self.tokenizer(tail, add_special_tokens=False)["input_ids"][:1]
        return frozenset(ends | (set(first) & set(self.tokenizer.all_special_ids)))

    def _head(self, messages: Sequence[Message]) -> Transcript:
        """Tokens before an answer that is to be sampled, a given beginning of it included."""
        if not messages or messages[-1].speaker != "assistant":
            return self._spans(self._render(messages, answer=True), messages)
        last = messages[-1]
        if last.token_ids is None and not last.content.strip():
            return self._head(messages[:-1])  # nothing was said yet
        if last.token_ids is None:
            return self._spans(self._render(messages, answer=False).unended, messages)
        before = self._head(messages[:-1])
        start = len(before.token_ids)
        number = sum(m.speaker == "assistant" for m in messages[:-1])
        turn = Turn(number, start, start + len(last.token_ids))
        turns = (*before.turns, turn) if last.token_ids else before.turns
        return Transcript(before.token_ids + last.token_ids, turns)

    def _spans(self, rendered: Rendered, messages: Sequence[Message]) -> Transcript:
        token_ids, offsets = self._tokens(rendered)
        spans = [
            span
            for span, message in zip(rendered.contents, self._adapted(messages), strict=True)
            if message.speaker == "assistant"
        ]
        turns = [
            _turn(number, span, rendered.text, offsets)
            for number, span in enumerate(spans)
            if span is not None
        ]
        return Transcript(tuple(token_ids), tuple(t for t in turns if t.stop > t.start))

    def _tokens(self, rendered: Rendered) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens, and the characters that each stands for.

        Control tokens are the template's to set. Where a message spells one, `<|im_end|>` say, it
        is read as the characters that it is: else anybody could end a turn and begin another's.
        """
        # The template has put the beginning-of-text token; the tokenizer must not put another.
        encoded = self.tokenizer(
            rendered.text, add_special_tokens=False, return_offsets_mapping=True
        )
        ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
        added = [n for n, token in enumerate(ids) if token in self._added]
        forged = {n for n in added if _is_within(offsets[n], rendered)}
        set_by_template = {ids[n] for n in added if n not in forged}
        forged = {n for n in forged if self._added[ids[n]] or ids[n] in set_by_template}
        for n in sorted(forged, reverse=True):
            start, stop = offsets[n]
            spelled = self._spelled(rendered.text[start:stop], ids[n])
            ids[n : n + 1], offsets[n : n + 1] = spelled, [offsets[n]] * len(spelled)
        return ids, offsets

    @cached_property
    def _added(self) -> dict[int, bool]:
        """Tokens that text is cut at before all else, and whether they are marked as special."""
        special = set(self.tokenizer.all_special_ids)
        added = self.tokenizer.added_tokens_decoder
        return {n: bool(token.special) or n in special for n, token in added.items()}

    def _spelled(self, text: str, token: int) -> list[int]:
        """The text of a control token as ordinary tokens."""
        for pieces in ([text], [text[:1], text[1:]]):  # what is not marked as special must be cut
            ids = [n for piece in pieces for n in self._plain_ids(piece)]
            if token not in ids:
                return ids
        raise ChatTemplateError(
            f"a message holds the control token {text!r}, which cannot be spelled by other tokens; "
            "take it out of the message"
        )

    def _plain_ids(self, text: str) -> list[int]:
        """Tokens of a text inside another, special ones spelled."""
        # Some tokenizers put a space before whatever comes first: here, before the new line.
        first, both = (
            list(
                self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True).input_ids
            )
            for piece in ("\n", "\n" + text)
        )
        if both[: len(first)] == first:
            return both[len(first) :]
        return list(
            self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        )

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

    def _render(self, messages: Sequence[Message], *, answer: bool) -> Rendered:
        """The text of a conversation, with each message's span in it."""
        adapted = self._adapted(messages)
        try:
            return self._located(adapted, answer)
        except ChatTemplateError:
            if not (adapted[0].speaker == "system" and adapted[-1].speaker == "assistant"):
                raise
            rendered = self._answering_last_user(adapted)
            if rendered is None:
                raise
            return rendered

    def _located(self, messages: Sequence[Message], answer: bool) -> Rendered:
        true = self._apply(messages, answer)
        marks = marked([message.speaker for message in messages])
        try:
            return locate(true, self._apply(marks, answer), messages)
        except ChatTemplateError:
            if all(message.content.strip() for message in messages):
                raise
        # Many templates leave out a turn that says nothing, but not one that holds a mark.
        marks = [
            m if message.content.strip() else message
            for m, message in zip(marks, messages, strict=True)
        ]
        return locate(true, self._apply(marks, answer), messages)

    def _answering_last_user(self, messages: Sequence[Message]) -> Rendered | None:
        """A conversation whose system prompt the template shows only while a user speaks last.

        The last answer is put behind what the model was asked when it gave it. None where the
        template shows no system prompt there either.
        """
        *before, _ = messages
        try:
            head, bare_head = self._located(before, True), self._located(before[1:], True)
            bare = self._located(messages[1:], False)
        except ChatTemplateError:
            return None
        if not bare.text.startswith(bare_head.text):
            return None
        moved, span = len(head.text) - len(bare_head.text), bare.contents[-1]
        shifted = None if span is None else (span[0] + moved, span[1] + moved)
        return Rendered(head.text + bare.text[len(bare_head.text) :], (*head.contents, shifted))

    def _apply(self, messages: Sequence[Message], answer: bool) -> str:
        try:
            return self._write(messages, answer, in_parts=self._takes_parts)
        except Exception as error:
            raise ChatTemplateError(
                f"the chat template refuses this conversation: {error}"
            ) from error

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template wants a message as a list of parts, as many do that take images."""
        probe = marked(("user", "assistant"))
        for in_parts in (False, True):
            with suppress(Exception):
                text = self._write(probe, False, in_parts=in_parts)
                if mark(0) in text and mark(1) in text:
                    return in_parts
        return False

    def _write(self, messages: Sequence[Message], answer: bool, *, in_parts: bool) -> str:
        contents: list[Any] = [message.content for message in messages]
        if in_parts:
            contents = [[{"type": "text", "text": content}] for content in contents]
        return str(
            self.tokenizer.apply_chat_template(
                [
                    {"role": message.speaker, "content": content}
                    for message, content in zip(messages, contents, strict=True)
                ],
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=answer,
                **self.arguments,
            )
        )


def _is_within(token: tuple[int, int], rendered: Rendered) -> bool:
    """Whether a token's characters, but for white space around them, belong to a message."""
    start, stop = token
    written = rendered.text[start:stop]
    start, stop = stop - len(written.lstrip()), start + len(written.rstrip())
    return any(span and span[0] <= start < stop <= span[1] for span in rendered.contents)


def _turn(
    number: int, span: tuple[int, int], text: str, offsets: Sequence[tuple[int, int]]
) -> Turn:
    """The tokens of a message's text, those included that hold white space around it as well.

    Where a header ends with a space, as in `ASSISTANT: `, many tokenizers make one token of it and
    the first word: the very token that a model samples after `ASSISTANT:`.
    """
    start, stop = span

    def is_content(token: tuple[int, int]) -> bool:
        first, last = max(token[0], start), min(token[1], stop)
        if first >= last:
            return False
        around = text[token[0] : first] + text[last : token[1]]
        return not around or (not around.strip() and bool(text[first:last].strip()))

    inside = [index for index, token in enumerate(offsets) if is_content(token)]
    return Turn(number, inside[0], inside[-1] + 1) if inside else Turn(number, 0, 0)
