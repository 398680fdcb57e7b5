"""Turns conversations into tokens, and says which tokens are a message's own text.

Knows no model by name: what a template adds by itself is found by rendering marks through it.
Content tokens are those that lie wholly inside a message's text: no header, no end-of-turn token,
no thinking block.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from keel.engines.rendered_tokens import RenderedTokens, Transcript, Turn, content_tokens
from keel.engines.rendering import Rendered, before_marks, locate, mark, marked
from keel.engines.thinking import Delimiters, Said, ends_open, part, written_in
from keel.errors import ChatTemplateError
from keel.seeds import text_hash
from keel.settings import Spans
from keel.types import Conversation, Message, Speaker

PLAIN_TEMPLATE = "{{ bos_token or '' }}{% for m in messages %}{{ m['content'] }}\n\n{% endfor %}"
"""For base models, which have no chat template: texts with an empty line between them."""

_CLOCK = datetime(2024, 7, 26)
"""What every template is given as now, so that the same messages are the same tokens every day."""
_DATE = f"{_CLOCK:%d %b %Y}"
_SPEAKERS = ("system", "user", "assistant")
_SWITCH = re.compile(r"\b(?:if|if not) thinking\b|\bthinking is (?:not |un)?defined")
"""How templates ask whether to think, beside `enable_thinking`."""
_LAST_OF_SPLIT = re.compile(r"split\(\s*['\"]([<\[]/[^'\"]+[>\]])['\"][^()]*\)\s*\[-?1\]")
"""How templates take what stands behind a closing tag."""
_TAG = re.compile(r"<[^<>/]+>|\[[^\[\]/]+\]")
_ANSWERING = re.compile("response|answer|final|text|content|message|output", re.IGNORECASE)


class ChatTemplate:
    """A tokenizer's chat template: renders conversations to tokens and locates messages in them."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ChatTemplateError(
                f"{type(tokenizer).__name__} is not a fast tokenizer and gives no offsets; "
                "save the model with its tokenizer.json"
            )
        self.tokenizer = tokenizer
        self._tokens = RenderedTokens(tokenizer)
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
        return text_hash(self.source)

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
        if self.opens_thinking:
            facts["thinking"] = "on: the generation prompt opens it"
        elif {"enable_thinking", "thinking"} & self.arguments.keys():
            facts["thinking"] = "off"
        elif self._thinking_frame:
            facts["thinking"] = "left to the model"
        return facts

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether every answer begins with thinking because the generation prompt opens it."""
        with suppress(ChatTemplateError):
            return ends_open(self._apply(marked(("user",)), True), self._delimiters)
        return False

    def said(self, message: Message) -> Said:
        """What the assistant thought and what it answered, in whatever form the message has it.

        Known are the delimiters of open models' templates and this template's own. Of a message
        with its sampled tokens, these count: decoding may have left the delimiters out.
        """
        if message.token_ids is not None:
            start = self.answer_start(message.token_ids)
            if start:
                thought, answer = message.token_ids[:start], message.token_ids[start:]
                thinking = part(self._decoded(thought), self._delimiters, is_open=True).thinking
                return Said(thinking, self.tokenizer.decode(answer, skip_special_tokens=True))
        said = part(message.content, self._delimiters)
        return Said(message.thinking.strip(), said.answer) if message.thinking.strip() else said

    def answer_start(self, token_ids: Sequence[int]) -> int:
        """How many of the tokens that were sampled are thinking, its delimiters included.

        They are the first. All are, where thinking was begun and not ended. A token of white space
        behind the last delimiter is, too, but not one that the answer's first word begins with.
        """
        text = self._decoded(token_ids)
        start = part(text, self._delimiters, is_open=self.opens_thinking).answer_start
        if start in (0, len(text)):
            return len(token_ids) if start else 0
        delimited = len(text[:start].rstrip())
        low, high = 0, len(token_ids)
        while low < high:  # the fewest tokens that hold all of it
            middle = (low + high) // 2
            is_short = len(self._decoded(token_ids[:middle])) < delimited
            low, high = (middle + 1, high) if is_short else (low, middle)
        while len(self._decoded(token_ids[: low + 1])) <= start:
            low += 1
        return low

    def _decoded(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, control tokens included."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=False))

    @cached_property
    def _delimiters(self) -> tuple[Delimiters, ...]:
        """The template's own delimiters of thinking, beside those that are known anyway."""
        frames = [*filter(None, [self._thinking_frame, self._opened_frame])]
        frames += [(_mirrored(tag), tag) for tag in _LAST_OF_SPLIT.findall(self.source)]
        return tuple(Delimiters.literal(*frame) for frame in dict.fromkeys(frames))

    @cached_property
    def _thinking_frame(self) -> tuple[str, str] | None:
        """What the template writes before and behind a turn's thinking; None if it shows none."""
        before_thinking = Message("user", mark(0))
        thought = Message("assistant", mark(2), thinking=mark(1))
        for in_parts in (self._takes_parts, True):
            with suppress(Exception):
                head = self._write([before_thinking], True, in_parts=in_parts, thinks=True)
                text = self._write(
                    [before_thinking, thought], False, in_parts=in_parts, thinks=True
                )
                before, behind = text.split(mark(1))
                closing, _ = behind.split(mark(2))
                if closing.strip() and "type" not in closing:  # parts may be printed as they are
                    opening = before.removeprefix(head) if before.startswith(head) else ""
                    mirrored = _mirrored(closing.strip())
                    if not opening.strip() and before.rstrip().endswith(mirrored):
                        opening = mirrored  # the generation prompt ends with it
                    return opening, closing
        return None

    @cached_property
    def _opened_frame(self) -> tuple[str, str] | None:
        """A tag that the generation prompt opens and an answer that is given does not have."""
        with suppress(ChatTemplateError):
            given = self._apply(marked(("user", "assistant")), False).split(mark(1))[0]
            opened = _TAG.fullmatch(
                self._apply(marked(("user",)), True).removeprefix(given).strip()
            )
            if opened and not _ANSWERING.search(opened[0]):
                return opened[0], opened[0][0] + "/" + opened[0][1:]
        return None

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
        """Options of `apply_chat_template` beside messages: a fixed date, thinking off."""
        known = {"date_string": _DATE, "enable_thinking": False}
        arguments: dict[str, Any] = {n: value for n, value in known.items() if n in self.source}
        if self.asks_clock:
            arguments["chat_template"] = _standing_clock() + self.source
        return arguments | ({"thinking": False} if _SWITCH.search(self.source) else {})

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """Tokens up to where the assistant's answer begins.

        An assistant's last message is continued: the tokens end with its text, as the template
        renders it (one that trims messages trims this one, too), and its turn is not ended.
        """
        return list(self._head(conversation.messages).token_ids)

    def transcript(self, conversation: Conversation, spans: Spans = "answer") -> Transcript:
        """Tokens of a whole conversation; an answer with known tokens keeps those very tokens.

        Such an answer follows the `prompt_ids` of the messages before it. It may so continue an
        assistant's message, which is then a turn of its own.

        What is a turn's content, `spans` says: its answer, its thinking, or both as one. Thinking
        that is given as text is left out of the tokens, as templates leave out what was thought in
        earlier turns; but for `thinking` and `both` the last turn's stands where the model put it,
        and the last turn is then the only one.
        """
        *before, last = conversation.messages
        if last.speaker == "assistant" and last.token_ids is not None:
            return self._head(conversation.messages, spans)
        if spans == "answer":
            rendered = self._render(conversation.messages, answer=False)
            return self._spans(rendered, conversation.messages)
        said = self.said(last) if last.speaker == "assistant" else Said("", "")
        if not said.thinking:
            return replace(self.transcript(conversation), turns=())
        return self._thinking_aloud(before, said, spans)

    def end_tokens(self, configured: Iterable[int] = ()) -> frozenset[int]:
        """Tokens that end an answer: those configured, the tokenizer's, and the template's own."""
        ends = {*configured, self.tokenizer.eos_token_id} - {None}
        text = self._apply(marked(("user", "assistant")), False)
        tail = text.split(mark(1))[-1]
        first = self.tokenizer(tail, add_special_tokens=False)["input_ids"][:1]
        return frozenset(ends | (set(first) & set(self.tokenizer.all_special_ids)))

    def _thinking_aloud(self, before: Sequence[Message], said: Said, spans: Spans) -> Transcript:
        """A turn with its thinking, behind the generation prompt, as the model would sample it."""
        head = self._render(before, answer=True, thinks=True)
        usual = ("<think>\n", "\n</think>\n\n")
        opening, closing = self._thinking_frame or written_in(self.source) or usual
        begun = head.text + ("" if ends_open(head.text, self._delimiters) else opening)
        thought = begun + said.thinking
        text = thought + closing + said.answer
        parts = (len(begun), len(thought)), (len(text) - len(said.answer), len(text))
        ids, offsets = self._tokens.tokens(Rendered(text, (*head.contents, *parts)))
        (start, stop), (_, end) = (content_tokens(span, text, offsets) for span in parts)
        if spans == "both":
            stop = max(stop, end)
        number = sum(message.speaker == "assistant" for message in before)
        return Transcript(tuple(ids), (Turn(number, start, stop),) if stop > start else ())

    def _head(self, messages: Sequence[Message], spans: Spans = "answer") -> Transcript:
        """Tokens before an answer that is to be sampled, a given beginning of it included."""
        if not messages or messages[-1].speaker != "assistant":
            return self._spans(self._render(messages, answer=True), messages)
        last = messages[-1]
        if last.token_ids is None and not last.content.strip():
            return self._head(messages[:-1])  # nothing was said yet
        if last.token_ids is None:
            return self._spans(self._render(messages, answer=False).unended, messages)
        before = self._head(messages[:-1])
        thought = 0 if spans == "both" else self.answer_start(last.token_ids)
        start = len(before.token_ids)
        parts = {
            "answer": (start + thought, start + len(last.token_ids)),
            "thinking": (start, start + thought),
            "both": (start, start + len(last.token_ids)),
        }
        turn = Turn(sum(m.speaker == "assistant" for m in messages[:-1]), *parts[spans])
        turns = (*before.turns, turn) if turn.stop > turn.start else before.turns
        return Transcript(before.token_ids + last.token_ids, turns)

    def _spans(self, rendered: Rendered, messages: Sequence[Message]) -> Transcript:
        """The tokens of a rendered conversation; answers keep those that were sampled."""
        adapted = self._adapted(messages)
        merged = len(messages) - len(adapted)  # a system prompt put before the user's text
        sampled = {}
        for n, message in enumerate(messages):
            if message.speaker == "assistant":
                own = message.token_ids or ()
                sampled[n - merged] = tuple(own[self.answer_start(own) :] if own else ())
        return self._tokens.transcript(rendered, sampled)

    def _adapted(self, messages: Sequence[Message]) -> list[Message]:
        """Messages in the form that the template accepts."""
        plain = [
            Message(m.speaker, self.said(m).answer if m.speaker == "assistant" else m.content)
            for m in messages
        ]
        if not plain or plain[0].speaker != "system" or self.supports_system:
            return plain
        if len(plain) == 1 or plain[1].speaker != "user":
            raise ChatTemplateError(
                "the chat template has no system role and there is no user message to put it before"
            )
        return [Message("user", f"{plain[0].content}\n\n{plain[1].content}"), *plain[2:]]

    def _render(
        self, messages: Sequence[Message], *, answer: bool, thinks: bool = False
    ) -> Rendered:
        """The text of a conversation, with each message's span in it."""
        adapted = self._adapted(messages)
        try:
            return self._located(adapted, answer, thinks=thinks)
        except ChatTemplateError:
            if not (adapted[0].speaker == "system" and adapted[-1].speaker == "assistant"):
                raise
            rendered = self._answering_last_user(adapted)
            if rendered is None:
                raise
            return rendered

    def _located(
        self, messages: Sequence[Message], answer: bool, *, thinks: bool = False
    ) -> Rendered:
        true = self._apply(messages, answer, thinks=thinks)
        marks = marked([message.speaker for message in messages])
        try:
            return locate(true, self._apply(marks, answer, thinks=thinks), messages)
        except ChatTemplateError:
            if all(message.content.strip() for message in messages):
                raise
        # Many templates leave out a turn that says nothing, but not one that holds a mark.
        marks = [
            m if message.content.strip() else message
            for m, message in zip(marks, messages, strict=True)
        ]
        return locate(true, self._apply(marks, answer, thinks=thinks), messages)

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

    def _apply(self, messages: Sequence[Message], answer: bool, *, thinks: bool = False) -> str:
        try:
            return self._write(messages, answer, in_parts=self._takes_parts, thinks=thinks)
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

    def _write(
        self, messages: Sequence[Message], answer: bool, *, in_parts: bool, thinks: bool = False
    ) -> str:
        """The template's text. Thinking of messages is given to it in every form that is usual."""
        arguments = {"chat_template": self.source, **self.arguments}
        if thinks:
            arguments = {**arguments, "enable_thinking": True, "thinking": True}
        return str(
            self.tokenizer.apply_chat_template(
                [_as_template_takes(message, in_parts) for message in messages],
                tokenize=False,
                add_generation_prompt=answer,
                **arguments,
            )
        )


def _standing_clock() -> str:
    """A Jinja macro `strftime_now` that stands at one minute, to be put before a template.

    Newer releases of transformers hand no function on to templates that is given as an argument.
    """
    changes = {"%%": "\ue000"}
    for letter in "aAbBcdDefFgGhHIjmMprRSTuUVwWxXyYzZ":
        value = _CLOCK.strftime(f"%{letter}")
        changes |= {f"%{letter}": value, f"%-{letter}": value.lstrip("0") or "0"}
    changes |= {"%k": f"{_CLOCK.hour:2}", "%l": f"{_CLOCK:%I}", "%P": f"{_CLOCK:%p}".lower()}
    changes["\ue000"] = "%"
    pairs = [f"{json.dumps(old)}, {json.dumps(new)}" for old, new in changes.items()]
    clock = "".join(f" | replace({pair})" for pair in pairs)
    # The empty expression at the end keeps a line break that the template may begin with.
    return (
        f"{{%- macro strftime_now(format) %}}{{{{ format{clock} }}}}{{%- endmacro %}}{{{{ '' }}}}"
    )


def _mirrored(closing: str) -> str:
    """The opening tag that belongs to a closing one."""
    return closing.replace("/", "", 1)


def _as_template_takes(message: Message, in_parts: bool) -> dict[str, Any]:
    content: Any = message.content
    if in_parts:
        content = [{"type": "text", "text": content}]
        if message.thinking:
            content.insert(0, {"type": "thinking", "thinking": message.thinking})
    thinking = {}
    if message.thinking:
        thinking = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), message.thinking)
    return {"role": message.speaker, "content": content, **thinking}
