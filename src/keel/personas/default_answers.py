"""Where the default's own answers project on an axis that was made without them.

That is what a turn of a conversation can be judged against: the axis that they helped to make would
flatter them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from keel.personas.cells import Cells, RolloutIndex
from keel.types import ActivationBatch, DefaultAnswers


class HeldOutDefaults:
    """Gathers each default answer's projection while activations stream past.

    Each question fold's answers are projected on the axis of all other folds, in gap units of that
    axis. Keeps one number per layer and answer.
    """

    def __init__(self, cells: Cells, index: RolloutIndex) -> None:
        self._index, self._folds = index, cells.counts_NF.shape[1]
        # Without one fold: the whole less that fold.
        counts_NF = cells.counts_NF.sum(1, keepdim=True) - cells.counts_NF
        self._directions, self._default, self._role = [], [], []
        total_NLD = cells.sums_NFLD.sum(1)
        for fold in range(self._folds):
            means_NLD = total_NLD - cells.sums_NFLD[:, fold]
            means_NLD = (means_NLD / counts_NF[:, fold, None, None]).double()
            default_LD, role_LD = means_NLD[0], means_NLD[1:].nanmean(0)
            direction_LD = torch.nn.functional.normalize(default_LD - role_LD, dim=-1)
            self._directions.append(direction_LD)
            self._default.append((default_LD * direction_LD).sum(-1))
            self._role.append((role_LD * direction_LD).sum(-1))
        self._gaps: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}

    def watching(self, batches: Iterable[ActivationBatch]) -> Iterator[ActivationBatch]:
        """The same batches, looked at as they pass."""
        for batch in batches:
            for b, id in enumerate(batch.rollout_ids):
                if self._index.row.get(id) == 0:
                    fold = self._index.question[id] % self._folds
                    means_LD = batch.means_BLD[b].double()
                    projection_L = (means_LD * self._directions[fold]).sum(-1)
                    gap_L = self._default[fold] - self._role[fold]
                    self._gaps[id] = (projection_L - self._role[fold]) / gap_L
                    if batch.tokens_B is not None:
                        self._tokens[id] = int(batch.tokens_B[b])
            yield batch

    def answers(self, tokens: Mapping[str, int]) -> DefaultAnswers:
        """All that passed, with the number of tokens that each mean is over.

        `tokens` has the number of content tokens of each answer by its id, for batches that do not
        say: where an answer begins with thinking, its mean is over fewer.
        """
        return DefaultAnswers(
            torch.stack(list(self._gaps.values())).float(),
            torch.tensor([self._tokens.get(id, tokens[id]) for id in self._gaps]),
            torch.tensor([self._index.question[id] for id in self._gaps]),
        )
