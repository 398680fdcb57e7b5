"""|cosine| of the axis with the first principal component (PC1), and whether roles reach it, too.

A high |cos(axis, PC1)| alone proves nothing: models with random weights have it, and so has many a
role when it is taken for the default. So it comes with the value that roles reach in the default's
stead, and with an interval of what it would be without noise and with roles without end. Through
the cells' Gram matrix none of this touches the hidden dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from keel.personas.cells import Cells
from keel.statistics import Variance
from keel.types import Interval

_AT_ONCE = 64
"""Leave-one-out sets held in memory together."""
_TINY = 1e-30
_NEAREST = 0.9999
"""Cosine up to which Fisher's scale is followed; at 1 it is infinite."""


@dataclass(frozen=True)
class Alignment:
    """|cos(axis, PC1)| at one layer, corrected for noise and for few roles."""

    cos_pc1: Interval
    """What it is in the population that these roles and questions are drawn from."""
    null: float
    """What 95 % of the roles stay below, each in the default's stead; corrected in the same way."""
    p: float
    """Share (0 to 1) of the default and roles that are as near to PC1 as the default is: the p of
    the default's being one more role."""


def pc1_alignments(cells: Cells) -> list[Alignment]:
    """|cos(axis, PC1)| at every layer, with its interval and its null.

    The null leaves one out: each role is taken for the default, and the default for a role; the
    axis and PC1 are made anew. If the default were one more role, its rank among them all would be
    any with equal chance, which is an exact test.
    """
    counts_NF = cells.counts_NF.double()
    alignments = []
    for layer in range(cells.sums_NFLD.shape[2]):
        means_NFD = cells.sums_NFLD[:, :, layer].double() / counts_NF.clamp_min(1)[..., None]
        # Rows are nearly parallel: what all share is taken out before it drowns the rest.
        means_MD = (means_NFD - means_NFD.mean((0, 1))).flatten(0, 1)
        alignments.append(_alignment(means_MD @ means_MD.T, counts_NF))
    return alignments


def _alignment(gram_MM: Float[Tensor, "cell cell"], counts_NF: Tensor) -> Alignment:
    rows, folds = counts_NF.shape
    gram_NFNF = gram_MM.reshape(rows, folds, rows, folds)
    inner_NN = _inner(gram_NFNF, counts_NF)
    each = torch.arange(rows)
    # Row n first, the others after it in their order.
    order_SN = torch.stack([torch.cat([each[n : n + 1], each[:n], each[n + 1 :]]) for n in each])
    cosine_S = _Fits.of(inner_NN[order_SN[:, :, None], order_SN[:, None]]).cosine_S.abs()
    p = float((cosine_S >= cosine_S[0] - 1e-9).double().mean())
    correction = _Correction.of(gram_NFNF, counts_NF, inner_NN)
    null = correction(float(torch.quantile(cosine_S[1:], 0.95)))
    value = correction(float(cosine_S[0]))
    if not correction.is_known:
        return Alignment(Interval(value, 0.0, 1.0), null, p)
    raw = _as_computed(gram_NFNF, counts_NF, inner_NN)
    low, high = correction(raw.low), correction(raw.high)
    return Alignment(Interval(value, min(value, low), max(value, high)), null, p)


def _inner(gram_NFNF: Tensor, counts_NF: Tensor) -> Float[Tensor, "row row"]:
    """Inner products of the rows' means; each rollout weighs the same."""
    shares_NF = counts_NF / counts_NF.sum(1, keepdim=True).clamp_min(1)
    half_NFN = torch.einsum("nfmg,mg->nfm", gram_NFNF, shares_NF)
    return torch.einsum("nfm,nf->nm", half_NFN, shares_NF)


@dataclass(frozen=True)
class _Correction:
    """From a |cosine| as computed to what it is without noise and with roles without end.

    The component of the axis along the computed PC1 has `added` squared length by chance alone, and
    the true one's is to be compared with `length`: the axis' squared length without noise, times
    the squared cosine of the computed PC1 with the true one.
    """

    axis: float
    """Squared length of the axis as computed."""
    added: float
    length: float

    @classmethod
    def of(cls, gram_NFNF: Tensor, counts_NF: Tensor, inner_NN: Tensor) -> _Correction:
        """The alignment, corrected for noise in PC1.

        By noise reduction (Yata and Aoshima 2012, Journal of Multivariate Analysis 105:193): the
        variance that other directions have on average is taken out of its own, and the share that
        is left is its squared cosine with the true one.
        """
        roles = len(counts_NF) - 1
        fit = _Fits.of(inner_NN[None])
        weights_R, axis = fit.weights_SR[0], float(fit.axis_S[0])
        centred_RR = _centred(inner_NN[None, 1:, 1:])[0] / (roles - 1)
        whole = float(centred_RR.trace())
        largest = float(torch.linalg.eigvalsh(centred_RR)[-1])
        true = max(0.0, largest - (whole - largest) / max(1, roles - 2))
        # What default and mean role differ by, fold by fold, and its component along PC1.
        present_NF = (counts_NF > 0).double()
        kept = (present_NF[0] > 0) & (present_NF[1:].sum(0) > 0)
        contrast_NF = -present_NF / present_NF[1:].sum(0).clamp_min(1)
        contrast_NF[0] = 1.0
        shares_NF = counts_NF / counts_NF.sum(1, keepdim=True).clamp_min(1)
        along_NF = shares_NF.clone()
        along_NF[1:] *= (weights_R - weights_R.mean())[:, None]
        along_NF[0] = 0.0
        half_FMG = torch.einsum("nf,nfmg->fmg", contrast_NF, gram_NFNF)
        between_FF = torch.einsum("fmg,mg->fg", half_FMG, contrast_NF)[kept][:, kept]
        along_F = torch.einsum("fmg,mg->f", half_FMG, along_NF)[kept]
        along_F = along_F / max(largest * (roles - 1), _TINY) ** 0.5
        count = len(along_F)
        noise = noise_along = 0.0
        if count > 1:
            noise = float(between_FF.trace() - between_FF.sum() / count) / (count - 1) / count
            noise_along = float(along_F.var()) / count
        length = true / max(largest, _TINY) * (axis - whole / roles - noise)
        return cls(axis, true / roles + noise_along, length)

    @property
    def is_known(self) -> bool:
        """Whether anything is left of axis and PC1 when noise is taken out."""
        return self.length > 1e-9 * self.axis

    def __call__(self, cosine: float) -> float:
        """The corrected |cosine|; as computed where nothing is left to correct."""
        if not self.is_known:
            return cosine
        squared = (max(0.0, cosine) ** 2 * self.axis - self.added) / self.length
        return float(min(1.0, max(0.0, squared)) ** 0.5)


def _as_computed(gram_NFNF: Tensor, counts_NF: Tensor, inner_NN: Tensor) -> Interval:
    """The cosine as computed with its 95 % interval, on Fisher's scale; its ends may be negative.

    Its variance is the jackknife's over roles plus that over question folds (Efron and Stein 1981,
    Annals of Statistics 9:586), with Student's t of one degree of freedom fewer than roles.
    """
    rows, folds = counts_NF.shape
    whole = _Fits.of(inner_NN[None])
    # PC1 has no sign of its own: here it points where the default lies, and so in all parts.
    weights_R = whole.weights_SR[0] * (-1.0 if float(whole.cosine_S[0]) < 0 else 1.0)
    left_out = [[0, *(n for n in range(1, rows) if n != row)] for row in range(1, rows)]
    kept_SN = torch.tensor(left_out)
    by_role = _Fits.of(inner_NN[kept_SN[:, :, None], kept_SN[:, None]])
    fewer = []
    for fold in range(folds):
        counts = counts_NF.clone()
        counts[:, fold] = 0
        # A row with no rollout elsewhere keeps those that it has.
        counts = torch.where(counts.sum(1, keepdim=True) > 0, counts, counts_NF)
        fewer.append(_inner(gram_NFNF, counts))
    variance = 0.0
    for signed_S in (
        by_role.signed(weights_R[kept_SN[:, 1:] - 1]),
        _Fits.of(torch.stack(fewer)).signed(weights_R.expand(folds, -1)),
    ):
        z_S = torch.atanh(signed_S.clamp(-_NEAREST, _NEAREST))
        variance += (len(z_S) - 1) * float(z_S.var(correction=0))
    value = float(whole.cosine_S[0].abs())
    of_z = Variance(variance, max(1, rows - 2)).interval(np.arctanh(min(value, _NEAREST)))
    return Interval(value, float(np.tanh(of_z.low)), float(np.tanh(of_z.high)))


@dataclass(frozen=True)
class _Fits:
    """Axis and PC1 of several sets of rows."""

    cosine_S: Float[Tensor, " set"]
    """cos(axis, PC1), of any sign, as PC1 has."""
    weights_SR: Float[Tensor, "set role"]
    """Weights of the roles in PC1."""
    axis_S: Float[Tensor, " set"]
    """Squared length of the axis."""

    @classmethod
    def of(cls, inner_SNN: Float[Tensor, "set row row"]) -> _Fits:
        """From the inner products of the rows, the default first."""
        parts = [cls._at_once(part_SNN) for part_SNN in torch.split(inner_SNN, _AT_ONCE)]
        return cls(
            torch.cat([part.cosine_S for part in parts]),
            torch.cat([part.weights_SR for part in parts]),
            torch.cat([part.axis_S for part in parts]),
        )

    @classmethod
    def _at_once(cls, inner_SNN: Tensor) -> _Fits:
        roles_SRR, default_SR = inner_SNN[:, 1:, 1:], inner_SNN[:, 0, 1:]
        to_mean_SR = roles_SRR.mean(2)
        values_SR, weights_SRR = torch.linalg.eigh(_centred(roles_SRR))
        length_S = values_SR[:, -1].clamp_min(_TINY).sqrt()
        # ⟨axis, role⟩ with axis = default − mean; ⟨axis, mean⟩ is then taken out of it.
        along_SR = default_SR - to_mean_SR
        along_SR = along_SR - along_SR.mean(1, keepdim=True)
        along_S = (weights_SRR[:, :, -1] * along_SR).sum(1) / length_S
        axis_S = inner_SNN[:, 0, 0] - 2 * default_SR.mean(1) + to_mean_SR.mean(1)
        cosine_S = (along_S / axis_S.clamp_min(_TINY).sqrt()).clamp(-1, 1)
        return cls(cosine_S, weights_SRR[:, :, -1], axis_S)

    def signed(self, weights_SR: Float[Tensor, "set role"]) -> Float[Tensor, " set"]:
        """The cosines with each PC1 turned to where these weights of the roles point."""
        agreement_S = (self.weights_SR * weights_SR).sum(1)
        return self.cosine_S * torch.where(agreement_S < 0, -1.0, 1.0)


def _centred(inner_SRR: Tensor) -> Tensor:
    """Inner products of vectors less their mean."""
    to_mean_SR = inner_SRR.mean(2)
    total_S = to_mean_SR.mean(1)
    return inner_SRR - to_mean_SR[:, :, None] - to_mean_SR[:, None] + total_S[:, None, None]
