"""Compares what a steered and an unsteered model would say next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from keel.engines.results import Divergence
from keel.engines.transformers.reading import Sheet, content_logits, in_rows
from keel.steering import Intervention, check_reached


def divergences(
    model: Any,
    steering: Callable[[Sequence[Intervention]], Any],
    sheet: Sheet,
    settings: Sequence[Sequence[Intervention]],
) -> Iterator[Divergence]:
    """For each row of the sheet and each setting, the mean KL(unsteered ‖ steered) per token."""
    if not bool(sheet.content_BT.any()):
        return
    with torch.inference_mode():
        plain_NV = content_logits(model, sheet)
    for number, interventions in enumerate(settings):
        with steering(interventions) as handle, torch.inference_mode():
            if handle is not None:
                handle.marked = sheet.step
            steered_NV = content_logits(model, sheet)
            if handle is not None:
                check_reached(handle.firing(), [one.layer for one in interventions])
        kl_N = kl_per_token(plain_NV, steered_NV)
        yield from _per_row(kl_N, sheet, number)


def kl_per_token(
    plain_NV: Float[Tensor, "token vocabulary"], steered_NV: Float[Tensor, "token vocabulary"]
) -> Float[Tensor, " token"]:
    """KL(plain ‖ steered) of the two distributions at each token, in nats, in float32."""
    parts = []
    for plain, steered in zip(in_rows(plain_NV), in_rows(steered_NV), strict=True):
        log_p = torch.log_softmax(plain, -1, dtype=torch.float32)
        log_q = torch.log_softmax(steered, -1, dtype=torch.float32)
        difference = log_q.neg_().add_(log_p)
        parts.append(difference.mul_(log_p.exp_()).sum(-1).clamp_min(0).cpu())
    return torch.cat(parts)


def _per_row(kl_N: Tensor, sheet: Sheet, setting: int) -> Iterator[Divergence]:
    counts = sheet.content_BT.sum(1).tolist()
    for row, part in enumerate(torch.split(kl_N, counts)):
        if len(part):
            yield Divergence(row, setting, float(part.mean()), len(part))
