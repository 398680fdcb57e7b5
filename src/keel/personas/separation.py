"""How well an axis tells default answers from role answers on questions that it never saw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from keel.personas.cells import Places
from keel.types import ActivationBatch, Interval

_MOST_ROLLOUTS = 20_000
"""Past this many a seeded sample is enough: the intervals come from roles and questions."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """Each rollout's projection on the axis of the half of the questions that it is not in."""

    values_NL: Float[Tensor, "rollout layer"]
    row_N: Int[Tensor, " rollout"]
    """0 for the default, 1 + the role's place."""
    question_N: Int[Tensor, " rollout"]
    half_N: Int[Tensor, " rollout"]


@dataclass(frozen=True)
class Separation:
    """Effect size and AUC at one layer."""

    d_prime: Interval
    auc: Interval


def project_held_out(
    batches: Iterable[ActivationBatch],
    places: Places,
    fold_Q: Int[Tensor, " question"],
    half_axes: tuple[Float[Tensor, "layer hidden"], Float[Tensor, "layer hidden"]],
    seed: int,
) -> HeldOut:
    """Held-out projections of all rollouts that count; keeps one number per layer of each."""
    directions = [torch.nn.functional.normalize(axis, dim=-1) for axis in half_axes]
    values, rows, questions, halves = [], [], [], []
    for batch in batches:
        for place, id in enumerate(batch.rollout_ids):
            if id in places.row:
                half = int(fold_Q[places.question[id]]) % 2
                values.append((batch.means_BLD[place].float() * directions[1 - half]).sum(-1))
                rows.append(places.row[id])
                questions.append(places.question[id])
                halves.append(half)
    held_out = HeldOut(
        torch.stack(values), torch.tensor(rows), torch.tensor(questions), torch.tensor(halves)
    )
    return _sampled(held_out, seed)


def separations(held_out: HeldOut, *, resamples: int, seed: int) -> list[Separation]:
    """Effect size and AUC with intervals at every layer, averaged over the two halves.

    The intervals come from resampling roles and questions, not rollouts, with the axes as they
    are. d′ = (mean default − mean roles) / sqrt((var default + var roles) / 2).
    """
    weights_SN = _weights(held_out, resamples, seed)
    parts = [
        _Half.of(held_out, half, weights_SN)
        for half in (0, 1)
        if bool(((held_out.half_N == half) & (held_out.row_N == 0)).any())
    ]
    layers = held_out.values_NL.shape[1]
    return [
        Separation(
            _interval(np.mean([part.d_prime(layer) for part in parts], axis=0)),
            _interval(np.mean([part.auc(layer) for part in parts], axis=0)),
        )
        for layer in range(layers)
    ]


@dataclass(frozen=True)
class _Half:
    """The rollouts of one half, default and roles apart; weights of resample 0 are all one."""

    default_NL: Floats
    roles_NL: Floats
    default_weights_SN: Floats
    role_weights_SN: Floats

    @classmethod
    def of(cls, held_out: HeldOut, half: int, weights_SN: Floats) -> _Half:
        inside = (held_out.half_N == half).numpy()
        default = inside & (held_out.row_N == 0).numpy()
        roles = inside & (held_out.row_N > 0).numpy()
        values = held_out.values_NL.double().numpy()
        return cls(values[default], values[roles], weights_SN[:, default], weights_SN[:, roles])

    def d_prime(self, layer: int) -> Floats:
        mean_d, var_d = _moments(self.default_NL[:, layer], self.default_weights_SN)
        mean_r, var_r = _moments(self.roles_NL[:, layer], self.role_weights_SN)
        return (mean_d - mean_r) / np.sqrt(np.maximum((var_d + var_r) / 2, 1e-30))

    def auc(self, layer: int) -> Floats:
        """Share of (default, role) pairs in which the default stands higher; ties count half."""
        values = self.roles_NL[:, layer]
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(self.role_weights_SN[:, order], axis=1)
        reached = np.concatenate([np.zeros((len(reached), 1)), reached], axis=1)
        own = self.default_NL[:, layer]
        left = np.searchsorted(values[order], own, side="left")
        right = np.searchsorted(values[order], own, side="right")
        below = (reached[:, left] + reached[:, right]) / 2
        pairs = reached[:, -1] * self.default_weights_SN.sum(1)
        won: Floats = (below * self.default_weights_SN).sum(1) / np.maximum(pairs, 1e-30)
        return won


def _weights(held_out: HeldOut, resamples: int, seed: int) -> Floats:
    """How often each rollout is drawn when roles and questions are; first row: once each."""
    draw = np.random.default_rng(seed)
    rows, questions = held_out.row_N.numpy(), held_out.question_N.numpy()
    roles = rows.max()
    role_SR = draw.multinomial(roles, np.full(roles, 1 / roles), size=resamples)
    role_SR = np.concatenate([np.ones((resamples, 1)), role_SR], axis=1)  # the default stays
    question_SQ = np.zeros((resamples, questions.max() + 1))
    for half in (0, 1):  # within halves, so that neither runs empty
        own = np.unique(questions[held_out.half_N.numpy() == half])
        if len(own):
            shares = np.full(len(own), 1 / len(own))
            question_SQ[:, own] = draw.multinomial(len(own), shares, size=resamples)
    drawn = role_SR[:, rows] * question_SQ[:, questions]
    return np.concatenate([np.ones((1, len(rows))), drawn])


def _moments(values_N: Floats, weights_SN: Floats) -> tuple[Floats, Floats]:
    total = np.maximum(weights_SN.sum(1), 1e-30)
    mean = weights_SN @ values_N / total
    return mean, np.maximum(weights_SN @ values_N**2 / total - mean**2, 0)


def _interval(values_S: Floats) -> Interval:
    """The value of the data as they are, with the middle 95 % of its resamples."""
    low, high = np.nanpercentile(values_S[1:], [2.5, 97.5])
    return Interval(float(values_S[0]), float(low), float(high))


def _sampled(held_out: HeldOut, seed: int) -> HeldOut:
    count = len(held_out.row_N)
    if count <= _MOST_ROLLOUTS:
        return held_out
    keep = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:_MOST_ROLLOUTS]
    return HeldOut(
        held_out.values_NL[keep],
        held_out.row_N[keep],
        held_out.question_N[keep],
        held_out.half_N[keep],
    )
