"""Finds each message's text in what a chat template makes of a conversation. Knows no tokens.

The template renders marks in place of the texts, which says what it puts around them and in which
order. The texts themselves it may trim, and change no further.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keel.errors import ChatTemplateError
from keel.types import Message, Speaker

_MARK = re.compile(r"KEELMARK(\d+)KRAMLEEK", re.IGNORECASE)  # a template may change the case


@dataclass(frozen=True)
class Rendered:
    """A conversation as its template writes it, with the character span of each message's text."""

    text: str
    contents: tuple[tuple[int, int] | None, ...]
    """One per message; None where there was no text to be found."""

    @property
    def unended(self) -> Rendered:
        """This text up to the end of the last message's text."""
        last = self.contents[-1]
        assert last is not None, "a message without a text has no end"
        return Rendered(self.text[: last[1]], self.contents)


def mark(index: int) -> str:
    """What stands for the text of the message of this index."""
    return f"KEELMARK{index}KRAMLEEK"


def marked(speakers: Sequence[Speaker]) -> list[Message]:
    """Messages of these speakers, a mark as the text of each."""
    return [Message(speaker, mark(index)) for index, speaker in enumerate(speakers)]


def before_marks(text: str) -> str:
    """The rendered text before the first mark."""
    return _MARK.split(text, maxsplit=1)[0]


def locate(true: str, with_marks: str, messages: Sequence[Message]) -> Rendered:
    """The rendered text with each message's span in it, where the other rendering has its mark.

    A message without a mark in the messages that were rendered has no span: pass those that have
    none with an empty text. Raises ChatTemplateError saying which message the template changes.
    """
    pieces = _MARK.split(with_marks)
    order = [int(index) for index in pieces[1::2]]
    _check_each_is_shown_once(order, messages)
    spans: list[tuple[int, int] | None] = [None] * len(messages)
    position = len(pieces[0])
    if not true.startswith(pieces[0]):
        raise ChatTemplateError(
            "the chat template's own words depend on what the messages say: "
            f"{_first_difference(true, pieces[0])}; reword the messages"
        )
    for index, following in zip(order, pieces[2::2], strict=True):
        text = messages[index].content
        for trimmed in _trimmings(text):
            if true.startswith(trimmed + following, position):
                break
        else:
            raise ChatTemplateError(
                f"the chat template changes the text of message {index + 1} "
                f"({messages[index].speaker}) or what follows it: it writes "
                f"{true[position : position + 60]!r} where {text[:60]!r} was to stand; reword the "
                "message, or give a template that passes it on as it is"
            )
        spans[index] = (position, position + len(trimmed))
        position += len(trimmed) + len(following)
    if position != len(true):
        raise ChatTemplateError(
            f"the chat template adds {true[position : position + 60]!r} at the end because of what "
            "the messages say; reword them"
        )
    return Rendered(true, tuple(spans))


def _check_each_is_shown_once(order: Sequence[int], messages: Sequence[Message]) -> None:
    for index, message in enumerate(messages):
        shown = order.count(index)
        if message.content.strip() and shown != 1:
            does = "leaves out" if shown == 0 else f"shows {shown} times"
            raise ChatTemplateError(
                f"the chat template {does} message {index + 1} ({message.speaker}): "
                f"{message.content[:60]!r}; leave the message out, or give another template"
            )


def _first_difference(true: str, expected: str) -> str:
    at = next(
        (n for n, (a, b) in enumerate(zip(true, expected, strict=False)) if a != b),
        min(len(true), len(expected)),
    )
    return f"{true[at : at + 40]!r} for {expected[at : at + 40]!r}"


def _trimmings(text: str) -> Iterator[str]:
    """The text, and what is left of it when a template trims it, the longest first."""
    yield text
    if text != text.strip():
        yield from {
            text.rstrip("\n"): None,
            text.lstrip("\n"): None,
            text.strip("\n"): None,
            text.rstrip(): None,
            text.lstrip(): None,
            text.strip(): None,
        }
