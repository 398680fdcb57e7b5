"""|cosine| of the axis with the first principal component, and what it would be by chance.

A high |cos(axis, PC1)| alone proves nothing: models with random weights have it, too. So it comes
with an interval (roles and question folds resampled) and a null (labels shuffled). Both only mix
cells anew; through the cells' Gram matrix no resample touches the hidden dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from keel.personas.cells import Cells
from keel.statistics import draw_counts, percentile_interval
from keel.types import Interval

_AT_ONCE = 64
"""Resamples held in memory together."""


@dataclass(frozen=True)
class Alignment:
    """|cos(axis, PC1)| at one layer."""

    cos_pc1: Interval
    null: float
    """95th percentile with labels shuffled."""


def pc1_alignments(cells: Cells, *, resamples: int, shuffles: int, seed: int) -> list[Alignment]:
    """|cos(axis, PC1)| at every layer, with its interval and its null.

    The null shuffles all labels within each question fold, the default's too: how near would axis
    and PC1 be if no label meant anything? To shuffle the roles' alone would be no null: the axis
    would stay, and PC1 as well, for shuffled roles still vary along it the most.
    """
    draw = torch.Generator().manual_seed(seed)
    real = _resampled(cells.counts_NF, resamples, draw)
    null = _shuffled(cells.counts_NF, shuffles, draw)
    counts_NF = cells.counts_NF.clamp_min(1)
    alignments = []
    for layer in range(cells.sums_NFLD.shape[2]):
        means_NFD = cells.sums_NFLD[:, :, layer].double() / counts_NF[..., None]
        # Rows are nearly parallel: what all share is taken out before it drowns the rest.
        means_MD = (means_NFD - means_NFD.mean((0, 1))).flatten(0, 1)
        gram_MM = means_MD @ means_MD.T
        value, *resampled = real.cosines(gram_MM).tolist()
        interval = percentile_interval(value, np.array(resampled))
        alignments.append(Alignment(interval, float(torch.quantile(null.cosines(gram_MM), 0.95))))
    return alignments


@dataclass(frozen=True)
class _Mixes:
    """Resampled rows: each row of each mix is a weighted mean of one cell of every fold."""

    cell_SNF: Int[Tensor, "mix row fold"]
    """Index of the cell among all, row by row."""
    share_SNF: Float[Tensor, "mix row fold"]
    """Its share in the new row; the shares of a row sum to 1."""

    def cosines(self, gram_MM: Float[Tensor, "cell cell"]) -> Float[Tensor, " mix"]:
        """|cos(axis, PC1)| of each mix."""
        parts = (torch.split(tensor, _AT_ONCE) for tensor in (self.cell_SNF, self.share_SNF))
        inner = (_inner(cells, shares, gram_MM) for cells, shares in zip(*parts, strict=True))
        return torch.cat([_cosines(inner_SNN) for inner_SNN in inner])


def _resampled(counts_NF: Tensor, resamples: int, draw: torch.Generator) -> _Mixes:
    """The rows as they are, then resampled by role and fold; the default stays."""
    rows, folds = counts_NF.shape
    source_SN = torch.randint(1, rows, (1 + resamples, rows), generator=draw)
    source_SN[:, 0] = 0
    source_SN[0] = torch.arange(rows)
    weight_SF = torch.ones(1 + resamples, folds, dtype=torch.int64)
    drawn_SF = torch.randint(folds, (resamples, folds), generator=draw)
    weight_SF[1:] = draw_counts(drawn_SF).long()
    weighed_SNF = counts_NF[source_SN] * weight_SF[:, None]
    # A row with no rollout in the folds drawn keeps those that it has.
    is_empty_SN = weighed_SNF.sum(-1) == 0
    weighed_SNF[is_empty_SN] = counts_NF[source_SN[is_empty_SN]]
    return _mixes(source_SN[..., None].expand(-1, -1, folds), weighed_SNF)


def _shuffled(counts_NF: Tensor, shuffles: int, draw: torch.Generator) -> _Mixes:
    """Rows shuffled within each fold, the default's too."""
    rows, folds = counts_NF.shape
    source_SNF = torch.rand(shuffles, rows, folds, generator=draw).argsort(1)
    return _mixes(source_SNF, counts_NF[source_SNF, torch.arange(folds)])


def _mixes(source_SNF: Tensor, weighed_SNF: Tensor) -> _Mixes:
    folds = source_SNF.shape[-1]
    total_SN = weighed_SNF.sum(-1, keepdim=True).clamp_min(1)
    return _Mixes(source_SNF * folds + torch.arange(folds), weighed_SNF.double() / total_SN)


def _inner(cell_SNF: Tensor, share_SNF: Tensor, gram_MM: Tensor) -> Float[Tensor, "mix row row"]:
    """Inner products of the rows of each mix."""
    mixes, rows, folds = cell_SNF.shape
    bags, shares = cell_SNF.reshape(-1, folds), share_SNF.reshape(-1, folds)
    half_SNM = embedding_bag(bags, gram_MM, mode="sum", per_sample_weights=shares)
    half_SMN = half_SNM.reshape(mixes, rows, -1).transpose(1, 2)
    shift_S = torch.arange(mixes)[:, None, None] * len(gram_MM)
    inner_SNN = embedding_bag(
        (cell_SNF + shift_S).reshape(-1, folds),
        half_SMN.reshape(-1, rows),
        mode="sum",
        per_sample_weights=shares,
    )
    return inner_SNN.reshape(mixes, rows, rows)


def _cosines(inner_SNN: Tensor) -> Float[Tensor, " mix"]:
    """|cos(axis, PC1)| from the inner products of the default (first) and the roles."""
    roles_SRR, default_SR = inner_SNN[:, 1:, 1:], inner_SNN[:, 0, 1:]
    to_mean_SR = roles_SRR.mean(2)
    total_S = to_mean_SR.mean(1)
    centred_SRR = roles_SRR - to_mean_SR[:, :, None] - to_mean_SR[:, None] + total_S[:, None, None]
    values_SR, weights_SRR = torch.linalg.eigh(centred_SRR)
    length_S = values_SR[:, -1].clamp_min(1e-30).sqrt()
    # ⟨axis, role⟩ with axis = default − mean; ⟨axis, mean⟩ is then taken out of it.
    along_SR = default_SR - to_mean_SR
    along_SR = along_SR - along_SR.mean(1, keepdim=True)
    along_S = (weights_SRR[:, :, -1] * along_SR).sum(1) / length_S
    axis_S = inner_SNN[:, 0, 0] - 2 * default_SR.mean(1) + total_S
    cosines_S: Tensor = along_S.abs() / axis_S.clamp_min(1e-30).sqrt()
    return cosines_S.clamp_max(1)
