"""Sums of activations by role and question fold: all that the map needs, whatever the rollouts.

Row 0 is the default, then the roles. Folds hold whole questions, dealt round robin, and there is
an even number of them: the parity of a question is its half, so that what is found on one half
can be tried on questions that it never saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keel.errors import NotFiniteError, TooFewSamplesError
from keel.personas.places import Places
from keel.types import ActivationBatch

_MOST_FOLDS = 20
_MOST_CELLS = 1500
"""The Gram matrix of all cells is made at each layer; past this it costs more than it tells."""


@dataclass(frozen=True)
class Cells:
    """Sums and counts of response means per row (the default, then roles) and question fold."""

    roles: tuple[str, ...]
    sums_NFLD: Float[Tensor, "row fold layer hidden"]
    counts_NF: Int[Tensor, "row fold"]
    norm_sums_L: Float[Tensor, " layer"]
    """Sum of token norms over default responses."""

    @property
    def counts(self) -> dict[str, int]:
        """Rollouts of each role."""
        return dict(zip(self.roles, self.counts_NF[1:].sum(1).tolist(), strict=True))

    @property
    def default_count(self) -> int:
        """Rollouts of the default."""
        return int(self.counts_NF[0].sum())

    @property
    def residual_norm_L(self) -> Float[Tensor, " layer"]:
        """Mean token norm over default responses."""
        return (self.norm_sums_L / self.default_count).float()

    def means(self) -> Float[Tensor, "row layer hidden"]:
        """Mean activation of the default and of each role; each rollout weighs the same."""
        return self._means(slice(None))

    def half(self, number: int) -> Float[Tensor, "row layer hidden"]:
        """The same over the questions of one half; NaN for a row that has no rollout there."""
        return self._means(slice(number, None, 2))

    def keeping(self, roles: Sequence[str]) -> Cells:
        """The cells of the default and some roles only."""
        if tuple(roles) == self.roles:
            return self  # the sums may fill gigabytes; no copy
        rows = [0, *(1 + self.roles.index(role) for role in roles)]
        return Cells(tuple(roles), self.sums_NFLD[rows], self.counts_NF[rows], self.norm_sums_L)

    def _means(self, folds: slice) -> Float[Tensor, "row layer hidden"]:
        counts_N = self.counts_NF[:, folds].sum(1)
        return self.sums_NFLD[:, folds].sum(1) / counts_N[:, None, None]


def axis_of(means_NLD: Float[Tensor, "row layer hidden"]) -> Float[Tensor, "layer hidden"]:
    """Mean default − unweighted mean of role vectors (Lu et al. 2026, §3.1)."""
    # A role may have no rollout in a half of the questions; it has no mean there.
    return means_NLD[0] - means_NLD[1:].nanmean(0)


def gather_cells(
    places: Places,
    batches: Iterable[ActivationBatch],
    folds_bytes: int,
    *,
    most_cells: int = _MOST_CELLS,
) -> Cells:
    """The cells of all rollouts that count, summed in the order of the stream; none is kept.

    Raises NotFiniteError naming a rollout with NaN or Inf, TooFewSamplesError without any.
    """
    cells = None
    for batch in batches:
        _check_finite(batch)
        if cells is None:
            cells = _empty(places, batch.means_BLD.shape[1:], folds_bytes, most_cells)
        _add(batch, places, cells)
    if cells is None:
        raise TooFewSamplesError("there are no activations to map; extract some first")
    return cells


def _empty(places: Places, shape: torch.Size, folds_bytes: int, most_cells: int) -> Cells:
    rows = 1 + len(places.roles)
    fitting = min(folds_bytes // (rows * shape.numel() * 4), most_cells // rows, _MOST_FOLDS)
    folds = max(2, min(places.questions, max(4, fitting)) // 2 * 2)
    return Cells(
        places.roles,
        torch.zeros(rows, folds, *shape),
        torch.zeros(rows, folds, dtype=torch.int64),
        torch.zeros(shape[0], dtype=torch.float64),
    )


def _check_finite(batch: ActivationBatch) -> None:
    finite_B = torch.isfinite(batch.means_BLD).flatten(1).all(1)
    finite_B &= torch.isfinite(batch.norms_BL).all(1)
    if not bool(finite_B.all()):
        bad = batch.rollout_ids[int(finite_B.int().argmin())]
        raise NotFiniteError(
            f"activations of rollout {bad} hold NaN or Inf; extract again with --dtype float32"
        )


def _add(batch: ActivationBatch, places: Places, cells: Cells) -> None:
    """Add a batch to the sums, in place. One by one: the result knows nothing of batches."""
    folds = cells.counts_NF.shape[1]
    for place, id in enumerate(batch.rollout_ids):
        if (row := places.row.get(id)) is None:
            continue
        fold = places.question[id] % folds
        cells.sums_NFLD[row, fold] += batch.means_BLD[place].float()
        cells.counts_NF[row, fold] += 1
        if row == 0:
            cells.norm_sums_L.add_(batch.norms_BL[place].double())
