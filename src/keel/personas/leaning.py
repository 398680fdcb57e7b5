"""How trait vectors lie to the axis, with intervals of resampled questions.

Both only mix cells anew; through the Gram matrix of a trait's own cells no resample touches the
hidden dimension.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from keel.personas.cells import Cells
from keel.settings import TraitSettings
from keel.statistics import bootstrap_indices, percentile_interval
from keel.types import TraitAxis


def lean_on_axis(
    cells: Cells, axis_LD: Float[Tensor, "layer hidden"], settings: TraitSettings
) -> TraitAxis:
    """The cosine of every trait's vector with the axis, at every layer.

    `cells` hold the default and then both sides of each trait in turn. The same questions are
    drawn for all traits.
    """
    drawn_SF = _draws(cells.counts_NF.shape[1], settings.bootstrap, settings.seed)
    traits = (len(cells.counts_NF) - 1) // 2
    found = [_lean(cells, 1 + 2 * trait, axis_LD, drawn_SF) for trait in range(traits)]
    value_LN, low_LN, high_LN = (torch.stack(part, dim=1) for part in zip(*found, strict=True))
    return TraitAxis(value_LN, low_LN, high_LN)


def _draws(folds: int, resamples: int, seed: int) -> Float[Tensor, "resample fold"]:
    """How often each question fold is drawn; first row: once each."""
    drawn_SF = bootstrap_indices(folds, resamples, seed)
    return torch.nn.functional.one_hot(drawn_SF, folds).sum(1).double()


def _lean(
    cells: Cells, row: int, axis_LD: Tensor, drawn_SF: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine, low and high end of one trait at every layer."""
    shares_SM = _shares(cells.counts_NF[row : row + 2].double(), drawn_SF)
    cosines_SL = torch.stack(
        [
            _cosines(_centred(cells, row, layer), axis_LD[layer].double(), shares_SM)
            for layer in range(len(axis_LD))
        ],
        dim=1,
    )
    value_L = cosines_SL[0]
    intervals = [percentile_interval(float(c_S[0]), c_S.numpy()) for c_S in cosines_SL.T]
    low_L, high_L = torch.tensor([[i.low, i.high] for i in intervals]).T
    return value_L.float(), low_L, high_L


def _shares(counts_2F: Tensor, drawn_SF: Tensor) -> Float[Tensor, "resample cell"]:
    """What each cell's sum is multiplied by: a mean of one side, less a mean of the other.

    NaN where a side has no answer in the questions drawn.
    """
    total_S2 = drawn_SF @ counts_2F.T
    total_S2 = torch.where(total_S2 == 0, torch.nan, total_S2)
    sign_2 = torch.tensor([1.0, -1.0], dtype=torch.float64)
    return (drawn_SF[:, None] * (sign_2 / total_S2)[..., None]).flatten(1)


def _centred(cells: Cells, row: int, layer: int) -> Float[Tensor, "cell hidden"]:
    """Sums of both sides' cells, less what all answers share, before it drowns the rest."""
    sums_MD = cells.sums_NFLD[row : row + 2, :, layer].double().flatten(0, 1)
    counts_M = cells.counts_NF[row : row + 2].double().flatten()
    return sums_MD - counts_M[:, None] * (sums_MD.sum(0) / counts_M.sum())


def _cosines(sums_MD: Tensor, axis_D: Tensor, shares_SM: Tensor) -> Float[Tensor, " resample"]:
    gram_MM, along_M = sums_MD @ sums_MD.T, sums_MD @ axis_D
    length_S = ((shares_SM @ gram_MM) * shares_SM).sum(1).clamp_min(0).sqrt()
    cosines_S: Tensor = (shares_SM @ along_M) / (length_S * axis_D.norm()).clamp_min(1e-30)
    return cosines_S.clamp(-1, 1)
