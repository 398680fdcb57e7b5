"""How far the axis is the first principal component, and how far it would be by chance.

A high |cos(axis, PC1)| alone proves nothing: models with random weights have it, too. So it comes
with an interval (roles and question folds resampled) and a null (labels shuffled). Both only mix
cells anew; through the cells' Gram matrix no resample touches the hidden dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keel.personas.cells import Cells
from keel.personas.intervals import interval
from keel.types import Interval

_AT_ONCE = 32
"""Resamples held in memory together."""


@dataclass(frozen=True)
class Alignment:
    """|cos(axis, PC1)| at one layer, with the 95th percentile of its null."""

    cos_pc1: Interval
    null: float


def pc1_alignments(
    cells: Cells, *, resamples: int, shuffles: int, seed: int
) -> list[Alignment]:
    """|cos(axis, PC1)| at every layer, with its interval and its null.

    The null shuffles all labels within each question fold, the default's too: how far would the
    axis be PC1 if no label meant anything? To shuffle the roles alone would be no null. Their
    cells vary along PC1 whoever they are given to, so a true axis would not stand out from it.
    """
    draw = torch.Generator().manual_seed(seed)
    real = _resampled(cells.counts_NF, resamples, draw)
    null = _shuffled(cells.counts_NF, shuffles, draw)
    found = []
    for gram_NFNF in _grams(cells):
        real_S = torch.cat([_cosines(part.inner(gram_NFNF)) for part in real])
        null_S = torch.cat([_cosines(part.inner(gram_NFNF)) for part in null])
        found.append(Alignment(interval(real_S.numpy()), float(torch.quantile(null_S, 0.95))))
    return found
