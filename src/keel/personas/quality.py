"""How good the axis of each layer is, and which layer to take.

Three questions: does the axis separate default from role answers on questions that it never saw
(d′ and AUC), do axes from halves of the data agree, and is it more than the first principal
component of anything (alignment.py)?
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from keel.errors import UsageError
from keel.geometry import cosine
from keel.personas.alignment import pc1_alignments
from keel.personas.axis import axis_of
from keel.personas.cells import Cells, RolloutIndex
from keel.settings import MapSettings
from keel.statistics import Floats, percentile_interval
from keel.types import ActivationBatch, Interval, LayerQuality

_SHALLOWEST, _DEEPEST = 0.25, 0.9
"""Depths between which a layer is recommended: early layers encode the input tokens, the last ones
the next token; both are left out."""
_TOP_DIMENSIONS = 10
_MOST_ROLLOUTS = 10_000
"""Of the default and of the roles. Past it a sample will do: roles and questions, not rollouts,
decide how wide the intervals are."""

Halves = tuple[Float[Tensor, "row layer hidden"], Float[Tensor, "row layer hidden"]]


@dataclass(frozen=True)
class Separation:
    """Held-out effect size and AUC at one layer."""

    d_prime: Interval
    auc: Interval


def measure_quality(
    cells: Cells, separated: Sequence[Separation], settings: MapSettings
) -> tuple[LayerQuality, ...]:
    """The quality of every layer's axis, from its cells and from how it separates."""
    aligned = pc1_alignments(cells)
    means_NLD, halves = cells.means(), (cells.means(0), cells.means(1))
    axis_LD = axis_of(means_NLD)
    projections_NL = torch.einsum("nld,ld->nl", means_NLD, axis_LD)
    squares_LD = axis_LD.square()
    top_LK = squares_LD.topk(min(_TOP_DIMENSIONS, squares_LD.shape[1]), dim=-1).values
    curves = {
        "axis_norm": axis_LD.norm(dim=-1),
        "default_percentile": (projections_NL[1:] < projections_NL[0]).float().mean(0),
        "split_half_questions": cosine(*map(axis_of, halves)),
        "split_half_roles": _split_half_roles(halves, settings.seed),
        "top_dims_share": top_LK.sum(-1) / squares_LD.sum(-1).clamp_min(1e-30),
    }
    return tuple(
        LayerQuality(
            layer=n,
            d_prime=separated[n].d_prime,
            auc=separated[n].auc,
            cos_pc1=aligned[n].cos_pc1,
            cos_pc1_null=aligned[n].null,
            cos_pc1_p=aligned[n].p,
            **{name: float(curve_L[n]) for name, curve_L in curves.items()},
        )
        for n in range(len(axis_LD))
    )


def recommended_layer(quality: Sequence[LayerQuality]) -> int:
    """The layer with the greatest held-out d′, away from both ends; of equals the earlier.

    Never by raw variance: norms grow with depth, and would always choose the last layers.
    """
    last = max(1, len(quality) - 1)
    inner = [at for at in quality if _SHALLOWEST <= at.layer / last <= _DEEPEST]
    return max(inner or quality, key=lambda at: (at.d_prime.value, -at.layer)).layer


def _split_half_roles(halves: Halves, seed: int) -> Float[Tensor, " layer"]:
    """Cosine of axes that share no role and no question, hence no default answer either."""
    roles = len(halves[0]) - 1
    order = 1 + torch.randperm(roles, generator=torch.Generator().manual_seed(seed))
    # The default's row goes with both parts, each on other questions.
    first, second = (torch.cat([torch.zeros(1, dtype=torch.int64), part])
                     for part in order.tensor_split(2))  # fmt: skip
    both_ways = torch.stack(
        [
            cosine(axis_of(halves[0][first]), axis_of(halves[1][second])),
            cosine(axis_of(halves[0][second]), axis_of(halves[1][first])),
        ]
    )
    # Few roles may have no answer in a half; an axis that cannot be made agrees with nothing.
    return both_ways.nanmean(0).nan_to_num(0)


# --- separation of default and role answers, held out ---


def held_out_separations(
    batches: Iterable[ActivationBatch],
    index: RolloutIndex,
    half_axes: tuple[Float[Tensor, "layer hidden"], Float[Tensor, "layer hidden"]],
    *,
    resamples: int,
    seed: int,
) -> list[Separation]:
    """Effect size and AUC at every layer, averaged over the two halves of the questions.

    Each half is projected on the axis of the other. The intervals come from resampling roles and
    questions, with the axes as they are; they are wide rather than narrow, since the noise of
    single answers enters with both. d′ = (mean default − mean roles) / sqrt((var default + var
    roles) / 2). Keeps one number per layer and rollout, of a sample where there are many.
    """
    sample = index.sampled(_MOST_ROLLOUTS, seed)
    projections = _project(batches, sample, half_axes)
    weights_SN = _weights(projections, len(sample.roles), resamples, seed)
    halves = [_Half.of(projections, half, weights_SN) for half in (0, 1)]
    separations = []
    for layer in range(projections.values_NL.shape[1]):
        d_prime_S = np.mean([half.d_prime(layer) for half in halves], axis=0)
        auc_S = np.mean([half.auc(layer) for half in halves], axis=0)
        separations.append(
            Separation(
                percentile_interval(float(d_prime_S[0]), d_prime_S[1:]),
                percentile_interval(float(auc_S[0]), auc_S[1:]),
            )
        )
    return separations


@dataclass(frozen=True)
class _HeldOut:
    """Each rollout's projection on the axis of the half of the questions that it is not in."""

    values_NL: Floats
    row_N: NDArray[np.int64]
    """0 for the default, 1 + the index of the role."""
    question_N: NDArray[np.int64]


def _project(
    batches: Iterable[ActivationBatch], index: RolloutIndex, half_axes: tuple[Tensor, Tensor]
) -> _HeldOut:
    directions = [torch.nn.functional.normalize(axis, dim=-1) for axis in half_axes]
    values, ids = [], []
    for batch in batches:
        for b, id in enumerate(batch.rollout_ids):
            if id in index.row:
                other = directions[1 - index.question[id] % 2]
                values.append((batch.means_BLD[b].float() * other).sum(-1))
                ids.append(id)
    if not values:
        raise UsageError(
            "the second call of batches() gave no rollout of the first; pass a function that "
            "starts the stream anew on each call"
        )
    return _HeldOut(
        torch.stack(values).double().numpy(),
        np.array([index.row[id] for id in ids]),
        np.array([index.question[id] for id in ids]),
    )


def _weights(held_out: _HeldOut, roles: int, resamples: int, seed: int) -> Floats:
    """How often each rollout is drawn when roles and questions are; first row: once each."""
    draw = np.random.default_rng(seed)
    role_SR = draw.multinomial(roles, np.full(roles, 1 / roles), size=resamples)
    role_SR = np.concatenate([np.ones((resamples, 1)), role_SR], axis=1)  # the default stays
    question_SQ = np.zeros((resamples, held_out.question_N.max() + 1))
    for half in (0, 1):  # each half draws from its own, or one may run empty
        own = np.unique(held_out.question_N[held_out.question_N % 2 == half])
        drawn_SQ = draw.multinomial(len(own), np.full(len(own), 1 / len(own)), size=resamples)
        question_SQ[:, own] = drawn_SQ
    drawn_SN = role_SR[:, held_out.row_N] * question_SQ[:, held_out.question_N]
    return np.concatenate([np.ones((1, len(held_out.row_N))), drawn_SN])


@dataclass(frozen=True)
class _Half:
    """The rollouts of one half, default and roles apart, with how often each is drawn."""

    default_NL: Floats
    roles_NL: Floats
    default_weights_SN: Floats
    role_weights_SN: Floats

    @classmethod
    def of(cls, held_out: _HeldOut, half: int, weights_SN: Floats) -> _Half:
        inside = held_out.question_N % 2 == half
        default, roles = inside & (held_out.row_N == 0), inside & (held_out.row_N > 0)
        # Effects stand on a common offset that may be a thousand times as large.
        values_NL = held_out.values_NL - held_out.values_NL[inside].mean(0)
        return cls(
            values_NL[default], values_NL[roles], weights_SN[:, default], weights_SN[:, roles]
        )

    def d_prime(self, layer: int) -> Floats:
        mean_d, var_d = _moments(self.default_NL[:, layer], self.default_weights_SN)
        mean_r, var_r = _moments(self.roles_NL[:, layer], self.role_weights_SN)
        return (mean_d - mean_r) / np.sqrt(np.maximum((var_d + var_r) / 2, 1e-30))

    def auc(self, layer: int) -> Floats:
        """Share of (default, role) pairs in which the default stands higher; ties count half."""
        values_N, own_N = self.roles_NL[:, layer], self.default_NL[:, layer]
        order = np.argsort(values_N, kind="stable")
        reached_SN = np.cumsum(self.role_weights_SN[:, order], axis=1)
        reached_SN = np.pad(reached_SN, ((0, 0), (1, 0)))
        left = np.searchsorted(values_N[order], own_N, side="left")
        right = np.searchsorted(values_N[order], own_N, side="right")
        below_SN = (reached_SN[:, left] + reached_SN[:, right]) / 2
        pairs_S = reached_SN[:, -1] * self.default_weights_SN.sum(1)
        won_S: Floats = (below_SN * self.default_weights_SN).sum(1) / _nan_where_zero(pairs_S)
        return won_S


def _moments(values_N: Floats, weights_SN: Floats) -> tuple[Floats, Floats]:
    """Weighted mean and variance of each resample; NaN where nothing was drawn."""
    total_S = _nan_where_zero(weights_SN.sum(1))
    mean_S = weights_SN @ values_N / total_S
    return mean_S, np.maximum(weights_SN @ values_N**2 / total_S - mean_S**2, 0)


def _nan_where_zero(total_S: Floats) -> Floats:
    return np.where(total_S > 0, total_S, np.nan)
