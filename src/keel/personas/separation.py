"""How well an axis tells default answers from role answers on questions that it never saw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from keel.errors import UsageError
from keel.personas.places import Places
from keel.statistics import Floats, percentile_interval
from keel.types import ActivationBatch, Interval

_MOST_ROLLOUTS = 10_000
"""Of the default and of the roles. Past it a sample will do: roles and questions, not rollouts,
decide how wide the intervals are."""


@dataclass(frozen=True)
class Separation:
    """Held-out effect size and AUC at one layer."""

    d_prime: Interval
    auc: Interval


def held_out_separations(
    batches: Iterable[ActivationBatch],
    places: Places,
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
    sample = places.sampled(_MOST_ROLLOUTS, seed)
    held_out = _project(batches, sample, half_axes)
    weights_SN = _weights(held_out, len(sample.roles), resamples, seed)
    halves = [_Half.of(held_out, half, weights_SN) for half in (0, 1)]
    return [
        Separation(
            _interval(np.mean([half.d_prime(layer) for half in halves], axis=0)),
            _interval(np.mean([half.auc(layer) for half in halves], axis=0)),
        )
        for layer in range(held_out.values_NL.shape[1])
    ]


def _interval(values_S: Floats) -> Interval:
    """The first value, of the data as they are, with the interval of the others."""
    return percentile_interval(float(values_S[0]), values_S[1:])


@dataclass(frozen=True)
class _HeldOut:
    """Each rollout's projection on the axis of the half of the questions that it is not in."""

    values_NL: Floats
    row_N: NDArray[np.int64]
    """0 for the default, 1 + the role's place."""
    question_N: NDArray[np.int64]


def _project(
    batches: Iterable[ActivationBatch], places: Places, half_axes: tuple[Tensor, Tensor]
) -> _HeldOut:
    directions = [torch.nn.functional.normalize(axis, dim=-1) for axis in half_axes]
    values, ids = [], []
    for batch in batches:
        for place, id in enumerate(batch.rollout_ids):
            if id in places.row:
                other = directions[1 - places.question[id] % 2]
                values.append((batch.means_BLD[place].float() * other).sum(-1))
                ids.append(id)
    if not values:
        raise UsageError(
            "the second call of batches() gave no rollout of the first; pass a function that "
            "starts the stream anew on each call"
        )
    return _HeldOut(
        torch.stack(values).double().numpy(),
        np.array([places.row[id] for id in ids]),
        np.array([places.question[id] for id in ids]),
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
        won_S: Floats = (below_SN * self.default_weights_SN).sum(1) / _or_nan(pairs_S)
        return won_S


def _moments(values_N: Floats, weights_SN: Floats) -> tuple[Floats, Floats]:
    """Weighted mean and variance of each resample; NaN where nothing was drawn."""
    total_S = _or_nan(weights_SN.sum(1))
    mean_S = weights_SN @ values_N / total_S
    return mean_S, np.maximum(weights_SN @ values_N**2 / total_S - mean_S**2, 0)


def _or_nan(total_S: Floats) -> Floats:
    return np.where(total_S > 0, total_S, np.nan)
