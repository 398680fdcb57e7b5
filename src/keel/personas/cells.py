"""Sums of activations by role and question fold: all that the map needs, whatever the rollouts.

Row 0 is the default. Folds hold whole questions, and the parity of a fold is its half, so that
what is found on one half can be tried on questions that it never saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keel.errors import NotFiniteError, TooFewSamplesError
from keel.types import ActivationBatch, Prompt

_MOST_FOLDS = 20


@dataclass(frozen=True)
class Cells:
    """Sums and counts of response means per row (the default, then roles) and question fold."""

    roles: tuple[str, ...]
    sums_NFLD: Float[Tensor, "row fold layer hidden"]
    counts_NF: Int[Tensor, "row fold"]
    norms_L: Float[Tensor, " layer"]
    """Mean token norm over default responses."""

    @property
    def counts(self) -> dict[str, int]:
        """Rollouts of each role."""
        totals = self.counts_NF[1:].sum(1).tolist()
        return dict(zip(self.roles, totals, strict=True))

    @property
    def default_count(self) -> int:
        """Rollouts of the default."""
        return int(self.counts_NF[0].sum())

    @cached_property
    def means_NLD(self) -> Float[Tensor, "row layer hidden"]:
        """Mean activation of the default and of each role."""
        return self.means(slice(None))

    def half(self, number: int) -> Float[Tensor, "row layer hidden"]:
        """Mean activations over the questions of one half; NaN for a role that has none there."""
        return self.means(slice(number, None, 2))

    def means(self, folds: slice) -> Float[Tensor, "row layer hidden"]:
        """Mean activation of each row over some folds; each rollout weighs the same."""
        counts_N = self.counts_NF[:, folds].sum(1)
        return self.sums_NFLD[:, folds].sum(1) / counts_N[:, None, None]

    def keeping(self, roles: Sequence[str]) -> Cells:
        """The cells of the default and some roles only."""
        rows = [0, *(1 + self.roles.index(role) for role in roles)]
        return Cells(tuple(roles), self.sums_NFLD[rows], self.counts_NF[rows], self.norms_L)


@dataclass(frozen=True)
class Places:
    """Where each rollout belongs; rollouts that do not count have no place."""

    roles: tuple[str, ...]
    row: Mapping[str, int]
    """Rollout id -> 0 for the default, 1 + the role's place."""
    question: Mapping[str, int]
    """Rollout id -> rank of its question."""
    questions: int

    @classmethod
    def of(cls, prompts: Iterable[Prompt], counting: Mapping[str, bool] | None) -> Places:
        """Places of the prompts' rollouts; `counting` says which of a role count."""
        listed = list(prompts)
        roles = tuple(dict.fromkeys(p.role for p in listed if not p.is_default))
        ranks = {q: n for n, q in enumerate(sorted({p.question_index for p in listed}))}
        rows = {role: 1 + n for n, role in enumerate(roles)}
        kept = [p for p in listed if p.is_default or counting is None or counting.get(p.id, False)]
        return cls(
            roles,
            {p.id: 0 if p.is_default else rows[p.role] for p in kept},
            {p.id: ranks[p.question_index] for p in kept},
            len(ranks),
        )


def gather_cells(
    places: Places, batches: Iterable[ActivationBatch], folds_bytes: int
) -> tuple[Cells, Int[Tensor, " question"]]:
    """The cells of all rollouts, and the fold of each question. Streams: no rollout is kept.

    Raises NotFiniteError naming the rollout with NaN or Inf, TooFewSamplesError without any.
    """
    sums_NFLD = counts_NF = norms_L = fold_Q = None
    for batch in batches:
        _check_finite(batch)
        if sums_NFLD is None:
            shape = batch.means_BLD.shape[1:]
            fold_Q = _folds(places, shape.numel(), folds_bytes)
            counts_NF = torch.zeros(1 + len(places.roles), int(fold_Q.max()) + 1, dtype=torch.int64)
            sums_NFLD = torch.zeros(*counts_NF.shape, *shape)
            norms_L = torch.zeros(shape[0])
        assert counts_NF is not None
        assert norms_L is not None
        assert fold_Q is not None
        for place, id in enumerate(batch.rollout_ids):
            if id in places.row:
                row, fold = places.row[id], int(fold_Q[places.question[id]])
                sums_NFLD[row, fold] += batch.means_BLD[place].float()
                counts_NF[row, fold] += 1
                if row == 0:
                    norms_L += batch.norms_BL[place].float()
    if sums_NFLD is None or counts_NF is None or norms_L is None or fold_Q is None:
        raise TooFewSamplesError("there are no activations to map; extract first")
    mean_L = norms_L / counts_NF[0].sum().clamp_min(1)
    return Cells(places.roles, sums_NFLD, counts_NF, mean_L), fold_Q


def _folds(places: Places, numbers: int, folds_bytes: int) -> Int[Tensor, " question"]:
    """An even number of folds, as many as fit; whole questions, round robin."""
    fitting = folds_bytes // ((1 + len(places.roles)) * numbers * 4)
    count = max(2, min(places.questions, _MOST_FOLDS, max(4, fitting)) // 2 * 2)
    return torch.arange(places.questions) % count


def _check_finite(batch: ActivationBatch) -> None:
    finite_B = torch.isfinite(batch.means_BLD).flatten(1).all(1)
    if not bool(finite_B.all()):
        bad = batch.rollout_ids[int((~finite_B).int().argmax())]
        raise NotFiniteError(
            f"activations of rollout {bad} hold NaN or Inf; extract again with --dtype float32"
        )
