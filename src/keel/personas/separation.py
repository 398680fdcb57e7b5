"""How well an axis separates default from role answers that it never saw: d′ and AUC.

Held out are questions and default prompts: an answer is projected on an axis made from the other
half of the questions, and a default answer on one made without its own system prompt besides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import expit, logit
from torch import Tensor

from keel.errors import UsageError
from keel.personas.cells import Cells, RolloutIndex
from keel.statistics import FEWEST_LEVELS, Clusters, Codes, Floats, jackknifed, most_unseen
from keel.types import ActivationBatch, Interval

_Kept = tuple[NDArray[np.bool_], NDArray[np.bool_]]
_MOST_ROLLOUTS = 2_000
"""Of the default and of the roles. Past it a sample will do: roles, questions and default prompts,
not rollouts, decide how wide the intervals are."""
_MOST_GROUPS = 10
"""Roles, or folds of questions, are left out in as many groups: each makes all axes anew."""
_ANSWER_GROUPS = 5
"""Groups of answers with a like share of every role, prompt and question."""


@dataclass(frozen=True)
class Separation:
    """Held-out effect size and AUC at one layer."""

    d_prime: Interval
    auc: Interval
    prompt_aucs: tuple[float, ...]
    """AUC of the default's answers under each of its system prompts."""


def held_out_separations(
    batches: Iterable[ActivationBatch], index: RolloutIndex, cells: Cells, *, seed: int
) -> list[Separation]:
    """Effect size and AUC at every layer, over both halves of the questions.

    d′ = m / sqrt((s² + 1) / 2), m and s² being mean and variance of the default's projections in
    units of what role answers have on the same axis: 0 is their mean, 1 their standard deviation.

    The intervals are the jackknife's: roles, default prompts and questions are left out in turn,
    and all axes made anew. The variances add up, less what answers by themselves give, which is in
    each (as in Cameron, Gelbach and Miller 2011). Fewer than `FEWEST_LEVELS` default prompts are
    taken as they are. Keeps some hundred numbers per layer for a sample of the rollouts.
    """
    replicates = _Replicates.of(cells)
    projections = _project(batches, index.sampled(_MOST_ROLLOUTS, seed), cells, replicates)
    return [projections.separation(layer) for layer in range(cells.sums_NFLD.shape[2])]


# --- what is left out ---


@dataclass(frozen=True)
class _Replicates:
    """Which cells each replicate keeps; the first keeps all."""

    rows_SRF: NDArray[np.bool_]
    """Of roles."""
    prompts_SPF: NDArray[np.bool_]
    """Of the default, by system prompt."""
    parts: dict[str, slice]
    """What was left out -> its replicates."""

    @classmethod
    def of(cls, cells: Cells) -> _Replicates:
        """Everything; then without some roles, some questions, some answers, one prompt each."""
        role_R = np.arange(len(cells.counts_NF) - 1)[:, None]
        prompt_P = np.arange(len(cells.default_counts_PF))[:, None]
        fold_F = np.arange(cells.counts_NF.shape[1])

        def without(groups: int, role_RF: Codes, prompt_PF: Codes) -> list[_Kept]:
            """Each group left out in turn, by the groups of roles' and the default's cells."""
            return [
                (role_RF + 0 * fold_F != group, prompt_PF + 0 * fold_F != group)
                for group in range(groups)
            ]

        none_R, none_P = np.full_like(role_R, -1), np.full_like(prompt_P, -1)
        kept = {
            "": without(1, none_R, none_P),
            "roles": without(min(len(role_R), _MOST_GROUPS), role_R % _MOST_GROUPS, none_P),
            "questions": without(
                min(len(fold_F), _MOST_GROUPS),
                *(none + 1 + fold_F % _MOST_GROUPS for none in (none_R, none_P)),
            ),
            # A fold and its neighbour are of different halves: each half loses as much.
            "answers": without(
                _ANSWER_GROUPS,
                *((row + fold_F // 2) % _ANSWER_GROUPS for row in (role_R, prompt_P)),
            ),
            "prompts": without(len(prompt_P), none_R, prompt_P)
            if len(prompt_P) >= FEWEST_LEVELS
            else [],
        }
        ends = np.cumsum([len(pairs) for pairs in kept.values()]).tolist()
        parts = {
            name: slice(end - len(pairs), end)
            for (name, pairs), end in zip(kept.items(), ends, strict=True)
            if pairs
        }
        every = [pair for pairs in kept.values() for pair in pairs]
        return cls(np.stack([r for r, _ in every]), np.stack([p for _, p in every]), parts)

    def axes(self, cells: Cells, half: int) -> Float[Tensor, "replicate prompt layer hidden"]:
        """The axes of one half of the questions, each without one of the default's prompts.

        With a single prompt there is none without it; then it is not held out.
        """
        inside = slice(half, None, 2)
        prompts = len(cells.default_counts_PF)
        others_PP = torch.ones(prompts, prompts) - (torch.eye(prompts) if prompts > 1 else 0)
        axes = []
        for rows_RF, prompts_PF in zip(self.rows_SRF, self.prompts_SPF, strict=True):
            roles_RLD = _means(
                cells.sums_NFLD[1:, inside], cells.counts_NF[1:, inside], rows_RF[:, inside]
            )
            own_PLD = _sums(cells.default_sums_PFLD[:, inside], prompts_PF[:, inside])
            own_P = (cells.default_counts_PF * torch.from_numpy(prompts_PF))[:, inside].sum(1)
            default_PLD = torch.einsum("qp,pld->qld", others_PP, own_PLD)
            counts_P = (others_PP @ own_P.float()).clamp_min(1)
            axes.append(default_PLD / counts_P[:, None, None] - roles_RLD.nanmean(0))
        return torch.stack(axes)


def _sums(sums_NFLD: Tensor, kept_NF: NDArray[np.bool_]) -> Float[Tensor, "row layer hidden"]:
    return torch.einsum("nfld,nf->nld", sums_NFLD, torch.from_numpy(kept_NF).float())


def _means(
    sums_NFLD: Tensor, counts_NF: Tensor, kept_NF: NDArray[np.bool_]
) -> Float[Tensor, "row layer hidden"]:
    """Mean of each row over the cells kept; NaN where it has no answer there."""
    counts_N = (counts_NF * torch.from_numpy(kept_NF)).sum(1)
    return _sums(sums_NFLD, kept_NF) / counts_N[:, None, None]


# --- projections ---


def _project(
    batches: Iterable[ActivationBatch], index: RolloutIndex, cells: Cells, replicates: _Replicates
) -> _HeldOut:
    """Project each rollout on the axes of the half of the questions that it is not in."""
    axes = [replicates.axes(cells, half) for half in (0, 1)]
    # Effects stand on a common offset that may be a thousand times as large.
    common_LD = cells.means()[1:].mean(0)
    values, ids = [], []
    for batch in batches:
        for half in (0, 1):
            rows = [
                (b, id)
                for b, id in enumerate(batch.rollout_ids)
                if id in index.row and index.question[id] % 2 == half
            ]
            if rows:
                centred_BLD = batch.means_BLD[[b for b, _ in rows]].float() - common_LD
                values.append(torch.einsum("bld,spld->bspl", centred_BLD, axes[1 - half]))
                ids += [id for _, id in rows]
    if not values:
        raise UsageError(
            "the second call of batches() gave no rollout of the first; pass a function that "
            "starts the stream anew on each call"
        )
    return _HeldOut(
        torch.cat(values).numpy(),
        np.array([index.row[id] for id in ids]) - 1,
        np.array([index.prompt.get(id, -1) for id in ids]),
        np.array([index.question[id] for id in ids]) % cells.counts_NF.shape[1],
        replicates,
    )


@dataclass(frozen=True)
class _HeldOut:
    """Each rollout's projections on axes of the other half, one of each replicate and prompt."""

    values_NSPL: NDArray[np.float32]
    role_N: Codes
    """-1 for the default."""
    prompt_N: Codes
    """Of the default's system prompts; -1 for roles."""
    fold_N: Codes
    replicates: _Replicates

    def separation(self, layer: int) -> Separation:
        """d′ and AUC at one layer, with their intervals."""
        measured = [
            self._measure(replicate, layer) for replicate in range(self.values_NSPL.shape[1])
        ]
        d_prime_S, auc_S = (np.array([each[n] for each in measured]) for n in (0, 1))
        d_prime = self._interval(d_prime_S)
        return Separation(d_prime, self._auc_interval(auc_S), tuple(measured[0][2].tolist()))

    def _interval(self, values_S: Floats) -> Interval:
        by_part = {name: values_S[part] for name, part in self.replicates.parts.items() if name}
        answers_S = by_part.pop("answers")
        # Of two questions each half has one, and nothing is left without it.
        known = [part_G for part_G in by_part.values() if np.isfinite(part_G).all()]
        shared_G = answers_S if np.isfinite(answers_S).all() else np.zeros(2)
        variance = jackknifed(known, shared_G=shared_G)
        return variance.interval(values_S[0])

    def _auc_interval(self, auc_S: Floats) -> Interval:
        """On the scale of log odds, where it stays within 0 and 1.

        Where hardly a pair is on the wrong side: what as many questions show without a miss.
        """
        answers, folds = int((self.role_N < 0).sum()), len(np.unique(self.fold_N))
        nearest = 0.5 / answers
        bounded = self._interval(logit(np.clip(auc_S, nearest, 1 - nearest)))
        value, low, high = float(auc_S[0]), float(expit(bounded.low)), float(expit(bounded.high))
        if not nearest < value < 1 - nearest:
            reach = most_unseen(Clusters({}, {}, folds))
            return Interval(value, min(low, 1 - reach) if value > 0.5 else 0.0,
                            1.0 if value > 0.5 else max(high, reach))  # fmt: skip
        return Interval(value, min(low, value), max(high, value))

    def _measure(self, replicate: int, layer: int) -> tuple[float, float, Floats]:
        """d′, AUC, and the AUC of each default prompt, of one replicate at one layer."""
        is_role_N = self.role_N >= 0
        kept_N = np.where(
            is_role_N,
            self.replicates.rows_SRF[replicate, self.role_N, self.fold_N],
            self.replicates.prompts_SPF[replicate, self.prompt_N, self.fold_N],
        )
        values_NP = self.values_NSPL[:, replicate, :, layer].astype(np.float64)
        d_primes, below_N = [], np.full(len(kept_N), np.nan)
        for half in (0, 1):
            inside_N = kept_N & (self.fold_N % 2 == half)
            roles_MP = values_NP[inside_N & is_role_N]
            if not len(roles_MP) or not (inside_N & ~is_role_N).any():
                return np.nan, np.nan, np.array([])
            scaled = []
            for prompt, of_roles_M in enumerate(roles_MP.T):
                own_N = inside_N & (self.prompt_N == prompt)
                default_K = values_NP[own_N, prompt]
                below_N[own_N] = _share_below(of_roles_M, default_K)
                scaled.append((default_K - of_roles_M.mean()) / max(of_roles_M.std(), 1e-15))
            scaled_K = np.concatenate(scaled)
            d_primes.append(scaled_K.mean() / ((scaled_K.var() + 1) / 2) ** 0.5)
        halves = [below_N[(self.fold_N % 2 == half) & np.isfinite(below_N)] for half in (0, 1)]
        by_prompt = [
            below_N[(self.prompt_N == prompt) & np.isfinite(below_N)]
            for prompt in range(values_NP.shape[1])
        ]
        prompt_aucs = np.array([part.mean() if len(part) else 0.5 for part in by_prompt])
        return float(np.mean(d_primes)), float(np.mean([h.mean() for h in halves])), prompt_aucs


def _share_below(values_M: Floats, own_K: Floats) -> Floats:
    """Share of the values that lie below each of one's own; ties count half."""
    sorted_M = np.sort(values_M)
    ends = [np.searchsorted(sorted_M, own_K, side=side) for side in ("left", "right")]
    return np.asarray((ends[0] + ends[1]) / 2 / len(sorted_M))
