"""How good the axis of each layer is, and which layer to take.

Three questions: does the axis separate default from role answers that it never saw
(separation.py), do axes from halves of the data agree, and is it more than the first principal
component of anything (alignment.py)?
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from keel.geometry import cosine
from keel.personas.alignment import pc1_alignments
from keel.personas.axis import axis_of
from keel.personas.cells import Cells
from keel.personas.separation import Separation
from keel.settings import MapSettings
from keel.types import DefaultPromptQuality, LayerQuality

_SHALLOWEST, _DEEPEST = 0.25, 0.9
"""Depths between which a layer is recommended: early layers encode the input tokens, the last ones
the next token; both are left out."""
_TOP_DIMENSIONS = 10

Halves = tuple[Float[Tensor, "row layer hidden"], Float[Tensor, "row layer hidden"]]


def measure_quality(
    cells: Cells, separated: Sequence[Separation], settings: MapSettings
) -> tuple[LayerQuality, ...]:
    """The quality of every layer's axis, from its cells and from how it separates."""
    aligned = pc1_alignments(cells)
    means_NLD, halves = cells.means(), (cells.means(0), cells.means(1))
    axis_LD = axis_of(means_NLD)
    projections_NL = torch.einsum("nld,ld->nl", means_NLD, axis_LD)
    prompt_cosines_PL = _prompt_cosines(cells)
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
            default_prompts=tuple(
                DefaultPromptQuality(auc, float(cosine_L[n]))
                for auc, cosine_L in zip(separated[n].prompt_aucs, prompt_cosines_PL, strict=True)
            ),
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


def _prompt_cosines(cells: Cells) -> Float[Tensor, "prompt layer"]:
    """Cosine of the axis that each default prompt gives alone with that of all others.

    Noise is taken out of it: both products and squared lengths are of axes from different halves of
    the questions. 1 where there is no other prompt, or where noise leaves nothing to compare.
    """
    alone, others = [], []
    for half in (0, 1):
        inside = slice(half, None, 2)
        sums_PLD, counts_P = (
            part[:, inside].sum(1) for part in (cells.default_sums_PFLD, cells.default_counts_PF)
        )
        if len(sums_PLD) == 1:
            return torch.ones(sums_PLD.shape[:2])
        counts_P11 = counts_P[:, None, None]
        roles_LD = cells.means(half)[1:].nanmean(0)
        alone.append(sums_PLD / counts_P11 - roles_LD)
        others.append((sums_PLD.sum(0) - sums_PLD) / (counts_P11.sum() - counts_P11) - roles_LD)
    products_PL = sum((alone[half] * others[1 - half]).sum(-1) for half in (0, 1)) / 2
    squares_PL = (alone[0] * alone[1]).sum(-1) * (others[0] * others[1]).sum(-1)
    is_known_PL = squares_PL > 0
    cosines_PL = products_PL / torch.where(is_known_PL, squares_PL, 1.0).sqrt()
    return torch.where(is_known_PL, cosines_PL.clamp(-1, 1), 1.0)
