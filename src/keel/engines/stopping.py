"""Stop strings: text that ends an answer. Knows tokenizers, no models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keel.errors import UsageError
from keel.types import Sampling

_MARGIN = 4
"""Tokens looked at besides: the first of a piece may decode without its space, or to no text."""


@dataclass(frozen=True)
class CutAnswer:
    """An answer that ends before the first stop string."""

    text: str
    token_ids: tuple[int, ...]
    """The fewest first tokens whose text begins with `text`; the last may reach into the stop."""
    is_stopped: bool
    """Whether there was a stop string."""


def cut_at_stop(tokenizer: Any, token_ids: Sequence[int], stop: Sequence[str]) -> CutAnswer:
    """The answer's text and tokens up to the first stop string, or all of it."""
    tokens = tuple(token_ids)
    whole: str = tokenizer.decode(tokens, skip_special_tokens=True)
    text = text_before(whole, stop)
    if text == whole:
        return CutAnswer(text, tokens, is_stopped=False)
    while tokens and _decodes_to(tokenizer, tokens[:-1], text):
        tokens = tokens[:-1]
    return CutAnswer(text, tokens, is_stopped=True)


def text_before(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


def has_just_stopped(tokenizer: Any, token_ids: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether a stop string stands in the last tokens: to be asked after each token.

    A token holds at least one byte of text, so a stop string reaches back over as many tokens as
    it has bytes, and no further.
    """
    reach = max((len(one.encode()) for one in stop), default=0)
    tail = tokenizer.decode(token_ids[-(reach + _MARGIN) :], skip_special_tokens=True)
    return any(one in tail for one in stop)


def check_recordable(sampling: Sampling, *, means: bool) -> None:
    """Raise UsageError where means are wanted of answers whose last tokens may be cut off."""
    if sampling.stop and means:
        raise UsageError(
            "response means are sums over all tokens, and stop strings cut some off afterwards; "
            "record projections instead, or leave out the stop strings"
        )


def _decodes_to(tokenizer: Any, token_ids: Sequence[int], text: str) -> bool:
    decoded: str = tokenizer.decode(token_ids, skip_special_tokens=True)
    return decoded.startswith(text)
