"""Draws the next token. Knows nothing of models.

The usual way sorts the whole vocabulary and draws one random number per word of it; at small
models that costs as much as the model. The nucleus lies among the likeliest few hundred words
almost always, so those are taken first, and one number per row decides.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keel.errors import NotFiniteError
from keel.types import Sampling

_LIKELIEST = 256


def draw(
    logits_BV: Float[Tensor, "row vocabulary"],
    sampling: Sampling,
    uniform_B: Float[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """One token per row: nucleus sampling at a temperature, decided by a number in [0, 1).

    The nucleus is the smallest set of likeliest tokens whose probability reaches top_p, at least
    one token. Raises NotFiniteError when a row has no finite logit.
    """
    if sampling.temperature == 0:
        _check_finite(logits_BV.amax(-1))
        return logits_BV.argmax(-1)
    logits_BV = logits_BV.float() / sampling.temperature
    total_B = torch.logsumexp(logits_BV, -1, keepdim=True)
    _check_finite(total_B)
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
    return drawn_B


def _check_finite(numbers_B: Tensor) -> None:
    """One number per row tells: NaN and Inf pass through a maximum or a sum."""
    if not bool(torch.isfinite(numbers_B).all()):
        raise NotFiniteError("the model's logits hold NaN or Inf; try dtype float32")


def _draw_sorted(share_BN: Tensor, tokens_BN: Tensor, top_p: float, uniform_B: Tensor) -> Tensor:
    reached_BN = share_BN.cumsum(-1)
    # A token belongs to the nucleus if those before it do not reach top_p yet.
    last_B = ((reached_BN - share_BN) < top_p).sum(-1, keepdim=True) - 1
    mass_B = reached_BN.gather(-1, last_B)
    place_B = torch.searchsorted(reached_BN, uniform_B[:, None] * mass_B, right=True)
    return tokens_BN.gather(-1, torch.minimum(place_B, last_B))[:, 0]
