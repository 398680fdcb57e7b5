"""Makes tokens of a rendered conversation, and says which are a message's. Knows no templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from keel.engines.rendering import Rendered
from keel.errors import ChatTemplateError


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


class RenderedTokens:
    """A tokenizer for which control tokens are such only where the template set them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def tokens(self, rendered: Rendered) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens, and the characters that each stands for.

        Control tokens are the template's to set. Where a message spells one, `<|im_end|>` say, it
        is read as the characters that it is: else anybody could end a turn and begin another's.
        """
        # The template has put the beginning-of-text token; the tokenizer must not put another.
        encoded = self._tokenizer(
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

    def transcript(self, rendered: Rendered, sampled: Mapping[int, tuple[int, ...]]) -> Transcript:
        """The conversation as tokens, with the span of each assistant's message.

        `sampled` holds, by the index of such a message, the tokens that the model sampled; () where
        they are not known. They stand in the transcript where they spell the text: tokenised again
        it can be other tokens, and nothing behind them would fit a cache of what was computed.
        """
        ids, offsets = self.tokens(rendered)
        token_ids: list[int] = []
        turns: list[Turn] = []
        position = 0
        for number, (index, own) in enumerate(sorted(sampled.items())):
            span = rendered.contents[index]
            start, stop = (0, 0) if span is None else content_tokens(span, rendered.text, offsets)
            if span is None or stop == start:
                continue
            said = rendered.text[slice(*span)].strip()
            read = rendered.text[offsets[start][0] : span[1]].strip()
            is_whole = read == said and offsets[stop - 1][1] == span[1]
            kept = own if own and is_whole and self._spell(own, said) else ids[start:stop]
            token_ids += ids[position:start]
            turns.append(Turn(number, len(token_ids), len(token_ids) + len(kept)))
            token_ids += kept
            position = stop
        return Transcript((*token_ids, *ids[position:]), tuple(turns))

    def _spell(self, token_ids: Sequence[int], text: str) -> bool:
        """Whether these tokens are the text, with or without control tokens among them."""
        return any(
            self._tokenizer.decode(list(token_ids), skip_special_tokens=is_skipped).strip() == text
            for is_skipped in (False, True)
        )

    @cached_property
    def _added(self) -> dict[int, bool]:
        """Tokens that text is cut at before all else, and whether they are marked as special."""
        special = set(self._tokenizer.all_special_ids)
        added = self._tokenizer.added_tokens_decoder
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
                self._tokenizer(
                    piece, add_special_tokens=False, split_special_tokens=True
                ).input_ids
            )
            for piece in ("\n", "\n" + text)
        )
        if both[: len(first)] == first:
            return both[len(first) :]
        return list(
            self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        )


def _is_within(token: tuple[int, int], rendered: Rendered) -> bool:
    """Whether a token's characters, but for white space around them, belong to a message."""
    start, stop = token
    written = rendered.text[start:stop]
    start, stop = stop - len(written.lstrip()), start + len(written.rstrip())
    return any(span and span[0] <= start < stop <= span[1] for span in rendered.contents)


def content_tokens(
    span: tuple[int, int], text: str, offsets: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """From which token to which (not included) a message's text goes; (0, 0) where it has none.

    Included are tokens that hold white space around the text as well. Where a header ends with a
    space, as in `ASSISTANT: `, many tokenizers make one token of it and the first word: the very
    token that a model samples after `ASSISTANT:`.
    """
    start, stop = span

    def is_content(first: int, last: int) -> bool:
        """Of a token that shares characters with the message."""
        inner = slice(max(first, start), min(last, stop))
        around = text[first : inner.start] + text[inner.stop : last]
        return not around or (not around.strip() and bool(text[inner].strip()))

    # Long conversations ask this of every message and token: most are told apart by their ends.
    inside = [
        index
        for index, (first, last) in enumerate(offsets)
        if first < stop and last > start and first < last and is_content(first, last)
    ]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)
