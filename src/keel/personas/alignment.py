"""How far the axis is the first principal component, and how far it would be by chance.

A high |cos(axis, PC1)| alone proves nothing: models with random weights have it, too. So it comes
with an interval (roles and question folds resampled) and a null (role labels shuffled). Both mix
the cells anew; through the cells' Gram matrix no resample touches the hidden dimension.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from keel.personas.cells import Cells
from keel.types import Interval


def pc1_alignment(
    cells: Cells, *, resamples: int, shuffles: int, seed: int
) -> list[tuple[Interval, float]]:
    """At every layer |cos(axis, PC1)| with its interval, and the null's 95th percentile."""
    draw = torch.Generator().manual_seed(seed)
    rows, folds = cells.counts_NF.shape
    mixes = [_as_they_are(cells), *(_resampled(cells, draw) for _ in range(resamples))]
    nulls = [_shuffled(cells, draw) for _ in range(shuffles)]
    stacked_SNM = torch.stack([m.reshape(rows, rows * folds) for m in (*mixes, *nulls)])
    found = []
    for gram_MM in _grams(cells):
        cosines_S = torch.cat([_cosines(part, gram_MM) for part in torch.split(stacked_SNM, 32)])
        real_S, null_S = cosines_S[: len(mixes)], cosines_S[len(mixes) :]
        low, high = torch.quantile(real_S[1:], torch.tensor([0.025, 0.975], dtype=torch.float64))
        interval = Interval(float(real_S[0]), float(low), float(high))
        found.append((interval, float(torch.quantile(null_S, 0.95))))
    return found


def _grams(cells: Cells) -> Iterator[Float[Tensor, "cell cell"]]:
    """Inner products of all cells' means, layer by layer, in float64."""
    counts_NF = cells.counts_NF.clamp_min(1)
    for layer in range(cells.sums_NFLD.shape[2]):
        means_NFD = cells.sums_NFLD[:, :, layer].double() / counts_NF[..., None]
        # Role vectors are nearly parallel: what all share is taken out before it cancels.
        means_NFD = means_NFD - cells.means_NLD[1:, layer].double().mean(0)
        means_MD = means_NFD.flatten(0, 1)
        yield means_MD @ means_MD.T


def _as_they_are(cells: Cells) -> Float[Tensor, "row row fold"]:
    """Row r of a mix says which cells make the r-th vector, and how much of each."""
    return _normalised(torch.diag_embed(cells.counts_NF.double().T).permute(1, 2, 0))


def _resampled(cells: Cells, draw: torch.Generator) -> Float[Tensor, "row row fold"]:
    """Roles and folds drawn again; the default stays the default."""
    rows, folds = cells.counts_NF.shape
    weight_F = torch.bincount(_draws(folds, draw), minlength=folds).double()
    counts_NF = cells.counts_NF.double() * weight_F
    # A role with no rollout in the folds drawn keeps those it has.
    is_empty_N = counts_NF.sum(1) == 0
    counts_NF[is_empty_N] = cells.counts_NF[is_empty_N].double()
    chosen_N = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + _draws(rows - 1, draw)])
    mix_NNF = torch.zeros(rows, rows, folds, dtype=torch.float64)
    mix_NNF[torch.arange(rows), chosen_N] = counts_NF[chosen_N]
    return _normalised(mix_NNF)


def _shuffled(cells: Cells, draw: torch.Generator) -> Float[Tensor, "row row fold"]:
    """Within each fold the roles' labels change places; the default stays the default."""
    rows, folds = cells.counts_NF.shape
    mix_NNF = torch.zeros(rows, rows, folds, dtype=torch.float64)
    mix_NNF[0, 0] = cells.counts_NF[0].double()
    for fold in range(folds):
        chosen_R = 1 + torch.randperm(rows - 1, generator=draw)
        counts_R = cells.counts_NF[chosen_R, fold].double()
        mix_NNF[torch.arange(1, rows), chosen_R, fold] = counts_R
    return _normalised(mix_NNF)


def _normalised(mix_NNF: Tensor) -> Tensor:
    return mix_NNF / mix_NNF.sum((1, 2), keepdim=True).clamp_min(1e-30)


def _draws(count: int, draw: torch.Generator) -> Tensor:
    return torch.randint(count, (count,), generator=draw)


def _cosines(mixes_SNM: Tensor, gram_MM: Tensor) -> Float[Tensor, " resample"]:
    """|cos(axis, PC1)| of each mix, from inner products alone."""
    inner_SNN = mixes_SNM @ gram_MM @ mixes_SNM.transpose(1, 2)
    roles_SRR = inner_SNN[:, 1:, 1:]
    to_mean_SR = roles_SRR.mean(2)
    total_S = to_mean_SR.mean(1)
    centred_SRR = roles_SRR - to_mean_SR[:, :, None] - to_mean_SR[:, None] + total_S[:, None, None]
    values_SR, weights_SRR = torch.linalg.eigh(centred_SRR)
    weights_SR, length_S = weights_SRR[:, :, -1], values_SR[:, -1].clamp_min(1e-30).sqrt()
    # ⟨axis, role − mean⟩, axis = default − mean; the weights of PC1 sum to zero.
    to_axis_SR = inner_SNN[:, 0, 1:] - to_mean_SR
    axis_S = inner_SNN[:, 0, 0] - 2 * inner_SNN[:, 0, 1:].mean(1) + total_S
    along_S = (weights_SR * (to_axis_SR - to_axis_SR.mean(1, keepdim=True))).sum(1)
    cosines_S: Tensor = (along_S / length_S).abs() / axis_S.clamp_min(1e-30).sqrt()
    return cosines_S
