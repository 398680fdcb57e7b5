"""From logits to tokens to text: draws tokens, cuts answers at stop strings, streams text.

Knows tokenizers, no models. The usual way to draw sorts the whole vocabulary and takes one random
number per word of it; at small models that costs as much as the model. The nucleus almost always
lies among the likeliest few hundred words, so those are taken first, and one number per row
decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keel.errors import NotFiniteError, UsageError
from keel.types import Sampling

NO_TOKEN = -1
"""Stands for the token of a row whose logits hold NaN or Inf."""
_LIKELIEST = 256
_MARGIN = 4
"""Extra tokens to decode: the first of a piece may decode without its space, or to no text."""


def draw(
    logits_BV: Float[Tensor, "row vocabulary"],
    sampling: Sampling,
    uniform_B: Float[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """One token per row: nucleus sampling at a temperature, decided by a number in [0, 1).

    The nucleus is the smallest set of likeliest tokens whose probability reaches top_p, at least
    one token. Waits for the device. Raises NotFiniteError when a row has no finite logit.
    """
    if sampling.temperature == 0:
        drawn_B = _likeliest(logits_BV)
    else:
        drawn_B = _draw_from_the_top(logits_BV.float() / sampling.temperature, sampling, uniform_B)
    check_drawn(drawn_B.tolist())
    return drawn_B


def draw_by_sorting(
    logits_BV: Float[Tensor, "row vocabulary"],
    sampling: Sampling,
    uniform_B: Float[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """As `draw`, with NO_TOKEN in a row without finite logits, and without waiting for the device.

    Nothing waits for the device, and a graph of its work can be captured; for that every row's
    vocabulary is sorted.
    """
    if sampling.temperature == 0:
        return _likeliest(logits_BV)
    is_short = logits_BV.dtype.itemsize <= 2
    if is_short:  # fewer bits to sort, and what is equal in them is equal afterwards
        logits_BV, tokens_BV = logits_BV.sort(-1, descending=True)
    logits_BV = logits_BV.float() / sampling.temperature
    total_B = torch.logsumexp(logits_BV, -1, keepdim=True)
    if not is_short:
        logits_BV, tokens_BV = logits_BV.sort(-1, descending=True)
    share_BV = (logits_BV - total_B).exp()
    drawn_B = _draw_sorted(share_BV, tokens_BV, sampling.top_p, uniform_B)
    return drawn_B.where(torch.isfinite(total_B[:, 0]), NO_TOKEN)


def check_drawn(tokens: Sequence[int]) -> None:
    """Raise NotFiniteError where a row's logits let no token be drawn."""
    if NO_TOKEN in tokens:
        raise NotFiniteError("the model's logits hold NaN or Inf; try dtype float32")


def _likeliest(logits_BV: Tensor) -> Tensor:
    most_B, tokens_B = logits_BV.max(-1)  # NaN and Inf pass through a maximum
    return tokens_B.where(torch.isfinite(most_B), NO_TOKEN)


def _draw_from_the_top(logits_BV: Tensor, sampling: Sampling, uniform_B: Tensor) -> Tensor:
    total_B = torch.logsumexp(logits_BV, -1, keepdim=True)
    count = min(_LIKELIEST, logits_BV.shape[-1])
    top_BN, tokens_BN = logits_BV.topk(count, -1)
    share_BN = (top_BN - total_B).exp()
    drawn_B = _draw_sorted(share_BN, tokens_BN, sampling.top_p, uniform_B)
    # Rows whose nucleus reaches further are few; only they pay for sorting the vocabulary.
    wide_B = (share_BN.sum(-1) < sampling.top_p) | (sampling.top_p == 1)
    if bool(wide_B.any()):
        top_BN, tokens_BN = logits_BV[wide_B].sort(-1, descending=True)
        share_BN = (top_BN - total_B[wide_B]).exp()
        drawn_B[wide_B] = _draw_sorted(share_BN, tokens_BN, sampling.top_p, uniform_B[wide_B])
    return drawn_B.where(torch.isfinite(total_B[:, 0]), NO_TOKEN)


def _draw_sorted(share_BN: Tensor, tokens_BN: Tensor, top_p: float, uniform_B: Tensor) -> Tensor:
    reached_BN = share_BN.cumsum(-1)
    # A token belongs to the nucleus if those before it do not reach top_p yet. Of numbers that are
    # none, no token does.
    last_B = ((reached_BN - share_BN) < top_p).sum(-1, keepdim=True).sub_(1).clamp_(min=0)
    mass_B = reached_BN.gather(-1, last_B)
    rank_B = torch.searchsorted(reached_BN, uniform_B[:, None] * mass_B, right=True)
    return tokens_BN.gather(-1, torch.minimum(rank_B, last_B))[:, 0]


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
    while tokens and tokenizer.decode(tokens[:-1], skip_special_tokens=True).startswith(text):
        tokens = tokens[:-1]
    return CutAnswer(text, tokens, is_stopped=True)


def text_before(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


def has_just_stopped(tokenizer: Any, token_ids: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether the last tokens contain a stop string; to be called after each token.

    A token holds at least one byte of text, so a stop string reaches back over as many tokens as
    it has bytes, and no further.
    """
    reach = max((len(text.encode()) for text in stop), default=0)
    tail = tokenizer.decode(token_ids[-(reach + _MARGIN) :], skip_special_tokens=True)
    return any(text in tail for text in stop)


def check_recordable(sampling: Sampling, *, means: bool) -> None:
    """Raise UsageError for means over answers whose last tokens may be cut off."""
    if sampling.stop and means:
        raise UsageError(
            "response means are sums over all tokens, and stop strings cut some off afterwards; "
            "record projections instead, or leave out the stop strings"
        )


class TextStream:
    """Passes on each row's text as it grows, holding back characters with incomplete bytes."""

    def __init__(self, tokenizer: Any, on_text: Callable[[int, str], None]) -> None:
        self._tokenizer = tokenizer
        self._on_text = on_text
        self._tokens: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        """Characters passed on, per row."""

    def __call__(self, row: int, token: int) -> None:
        """Add one more token to a row."""
        tokens = self._tokens.setdefault(row, [])
        tokens.append(token)
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        length = self._lengths.get(row, 0)
        if len(text) > length and not text.endswith("�"):
            self._lengths[row] = len(text)
            self._on_text(row, text[length:])
