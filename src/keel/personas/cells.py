"""Sums of activations by role and question fold: all that a map needs, whatever the rollouts.

Row 0 is the default, then the roles. Folds hold whole questions, dealt round robin, and there is
an even number of them: the parity of a question is its half, so that what is fitted on one half
can be tested on questions that it never saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keel.errors import ModelMismatchError, NotFiniteError, TooFewSamplesError
from keel.types import ActivationBatch, ModelIdentity, Prompt

_MOST_FOLDS = 20
_MOST_CELLS = 1500
"""The Gram matrix of all cells is made at each layer; past this it costs more than it tells."""


@dataclass(frozen=True)
class RolloutIndex:
    """Row and question of each rollout; those that do not count, or have no prompt, have no row."""

    roles: tuple[str, ...]
    row: Mapping[str, int]
    """Rollout id -> 0 for the default, 1 + the index of its role."""
    question: Mapping[str, int]
    """Rollout id -> rank of its question, for every prompt. Its parity is the question's half."""
    questions: int
    prompt: Mapping[str, int] = field(default_factory=dict)
    """Default rollout id -> rank of its system prompt."""

    @classmethod
    def of(
        cls,
        prompts: Sequence[Prompt],
        is_counted: Callable[[Prompt], bool],
        row_name: Callable[[Prompt], str] = lambda prompt: prompt.role,
    ) -> RolloutIndex:
        """Index of the prompts' rollouts; the default's always count.

        A role's row has its name, or those that `row_name` gives.
        """
        names = {p.id: row_name(p) for p in prompts if not p.is_default}
        roles = tuple(dict.fromkeys(names.values()))
        rows = {role: 1 + n for n, role in enumerate(roles)}
        ranks = {q: n for n, q in enumerate(sorted({p.question_index for p in prompts}))}
        of_default = sorted({p.system_index for p in prompts if p.is_default})
        systems = {system: n for n, system in enumerate(of_default)}
        return cls(
            roles,
            {
                p.id: 0 if p.is_default else rows[names[p.id]]
                for p in prompts
                if p.is_default or is_counted(p)
            },
            {p.id: ranks[p.question_index] for p in prompts},
            len(ranks),
            {p.id: systems[p.system_index] for p in prompts if p.is_default},
        )

    def keeping(self, roles: Sequence[str]) -> RolloutIndex:
        """The index with the rows of the default and some roles only."""
        new = {0: 0, **{1 + self.roles.index(role): 1 + n for n, role in enumerate(roles)}}
        rows = {id: new[row] for id, row in self.row.items() if row in new}
        return replace(self, roles=tuple(roles), row=rows)

    def sampled(self, most: int, seed: int) -> RolloutIndex:
        """At most so many rollouts of the default, and as many of all roles together."""
        # Apart, for at full scale the default's are one in three hundred.
        default = [id for id, row in self.row.items() if row == 0]
        playing = [id for id, row in self.row.items() if row > 0]
        draw = Random(seed)
        kept = [id for ids in (default, playing) for id in draw.sample(ids, min(most, len(ids)))]
        return replace(self, row={id: self.row[id] for id in kept})


@dataclass(frozen=True)
class Cells:
    """Sums and counts of response means per row (the default, then roles) and question fold."""

    roles: tuple[str, ...]
    sums_NFLD: Float[Tensor, "row fold layer hidden"]
    counts_NF: Int[Tensor, "row fold"]
    norm_sums_L: Float[Tensor, " layer"]
    """Sum of token norms over default responses."""
    default_sums_PFLD: Float[Tensor, "prompt fold layer hidden"]
    """Of the default's rows those under each of its system prompts."""
    default_counts_PF: Int[Tensor, "prompt fold"]

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

    def means(self, half: int | None = None) -> Float[Tensor, "row layer hidden"]:
        """Mean activation of the default and of each role; each rollout weighs the same.

        Over the questions of one half (0 or 1) where it is given; NaN for a row that has no
        rollout there.
        """
        folds = slice(None) if half is None else slice(half, None, 2)
        counts_N = self.counts_NF[:, folds].sum(1)
        return self.sums_NFLD[:, folds].sum(1) / counts_N[:, None, None]

    def keeping(self, roles: Sequence[str]) -> Cells:
        """The cells of the default and some roles only."""
        if tuple(roles) == self.roles:
            return self  # the sums may fill gigabytes; no copy
        rows = [0, *(1 + self.roles.index(role) for role in roles)]
        sums_NFLD, counts_NF = self.sums_NFLD[rows], self.counts_NF[rows]
        return replace(self, roles=tuple(roles), sums_NFLD=sums_NFLD, counts_NF=counts_NF)


def gather_cells(
    index: RolloutIndex,
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
        finite_B = torch.isfinite(batch.means_BLD).flatten(1).all(1)
        finite_B &= torch.isfinite(batch.norms_BL).all(1)
        if not bool(finite_B.all()):
            bad = batch.rollout_ids[int(finite_B.int().argmin())]
            raise NotFiniteError(
                f"activations of rollout {bad} hold NaN or Inf; extract again with --dtype float32"
            )
        if cells is None:
            cells = _empty_cells(index, batch.means_BLD.shape[1:], folds_bytes, most_cells)
        _add(batch, index, cells)
    if cells is None:
        raise TooFewSamplesError("there are no activations to map; extract some first")
    return cells


def check_shape(cells: Cells, identity: ModelIdentity) -> None:
    """Raise ModelMismatchError unless the activations have the model's layers and width."""
    layers, hidden = cells.sums_NFLD.shape[2:]
    if (layers, hidden) != (identity.layers, identity.hidden_size):
        raise ModelMismatchError(
            f"activations are of {layers} layers × {hidden}, and {identity.model_id} has "
            f"{identity.layers} × {identity.hidden_size}; pass the activations of that model"
        )


def check_default(cells: Cells) -> None:
    """Raise TooFewSamplesError where the default has no rollout."""
    if cells.default_count == 0:
        raise TooFewSamplesError("there is no default rollout; ask the model as itself, too")


def _empty_cells(
    index: RolloutIndex, shape: torch.Size, folds_bytes: int, most_cells: int
) -> Cells:
    rows = 1 + len(index.roles)
    fitting = min(folds_bytes // (rows * shape.numel() * 4), most_cells // rows, _MOST_FOLDS)
    folds = max(2, min(index.questions, max(4, fitting)) // 2 * 2)
    prompts = len(set(index.prompt.values()))
    return Cells(
        index.roles,
        torch.zeros(rows, folds, *shape),
        torch.zeros(rows, folds, dtype=torch.int64),
        torch.zeros(shape[0], dtype=torch.float64),
        torch.zeros(prompts, folds, *shape),
        torch.zeros(prompts, folds, dtype=torch.int64),
    )


def _add(batch: ActivationBatch, index: RolloutIndex, cells: Cells) -> None:
    """Add a batch to the sums, in place, rollout by rollout.

    The order of sums is the stream's, however it was cut into batches.
    """
    folds = cells.counts_NF.shape[1]
    for b, id in enumerate(batch.rollout_ids):
        if (row := index.row.get(id)) is None:
            continue
        fold = index.question[id] % folds
        cells.sums_NFLD[row, fold] += batch.means_BLD[b].float()
        cells.counts_NF[row, fold] += 1
        if row == 0:
            cells.norm_sums_L.add_(batch.norms_BL[b].double())
            cells.default_sums_PFLD[index.prompt[id], fold] += batch.means_BLD[b].float()
            cells.default_counts_PF[index.prompt[id], fold] += 1
