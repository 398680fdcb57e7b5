"""How good the axis of each layer is, and which layer to take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from keel.geometry import cosine
from keel.personas.alignment import pc1_alignments
from keel.personas.cells import Cells, axis_of
from keel.personas.separation import Separation
from keel.settings import MapSettings
from keel.types import LayerQuality

_SHALLOWEST, _DEEPEST = 0.25, 0.9
"""Depths among which a layer is recommended: the first layers still follow the words that were
read, the last make ready the word to come."""
_TOP_DIMENSIONS = 10

Halves = tuple[Float[Tensor, "row layer hidden"], Float[Tensor, "row layer hidden"]]


def measure_quality(
    cells: Cells, halves: Halves, separated: Sequence[Separation], settings: MapSettings
) -> tuple[LayerQuality, ...]:
    """The quality of every layer's axis, from its cells and from how it separates."""
    aligned = pc1_alignments(
        cells, resamples=settings.bootstrap, shuffles=settings.null_shuffles, seed=settings.seed
    )
    means_NLD = cells.means()
    axis_LD = axis_of(means_NLD)
    curves = {
        "axis_norm": axis_LD.norm(dim=-1),
        "default_percentile": _percentile(means_NLD, axis_LD),
        "split_half_questions": cosine(*map(axis_of, halves)),
        "split_half_roles": _split_roles(halves, settings.seed),
        "top_dims_share": _top_dims_share(axis_LD),
    }
    return tuple(
        LayerQuality(
            layer=n,
            d_prime=separated[n].d_prime,
            auc=separated[n].auc,
            cos_pc1=aligned[n].cos_pc1,
            cos_pc1_null=aligned[n].null,
            **{name: float(curve_L[n]) for name, curve_L in curves.items()},
        )
        for n in range(len(axis_LD))
    )


def recommended_layer(quality: Sequence[LayerQuality]) -> int:
    """The layer with the greatest held-out d′, away from both ends; of equals the earlier.

    Never by raw variance: norms grow with depth, and would always choose the last layers.
    """
    last = max(1, len(quality) - 1)
    inner = [one for one in quality if _SHALLOWEST <= one.layer / last <= _DEEPEST]
    return max(inner or quality, key=lambda one: (one.d_prime.value, -one.layer)).layer


def _percentile(means_NLD: Tensor, axis_LD: Tensor) -> Float[Tensor, " layer"]:
    heights_NL = torch.einsum("nld,ld->nl", means_NLD, axis_LD)
    return (heights_NL[1:] < heights_NL[0]).float().mean(0)


def _split_roles(halves: Halves, seed: int) -> Float[Tensor, " layer"]:
    """Cosine of axes that share no role and no question, hence no default answer either."""
    roles = len(halves[0]) - 1
    order = 1 + torch.randperm(roles, generator=torch.Generator().manual_seed(seed))
    some, others = order.tensor_split(2)
    both_ways = torch.stack([_across(halves, some, others), _across(halves, others, some)])
    # Few roles may have no answer in a half; an axis that cannot be made agrees with nothing.
    return both_ways.nanmean(0).nan_to_num(0)


def _across(halves: Halves, some: Tensor, others: Tensor) -> Float[Tensor, " layer"]:
    """Default and roles on the same questions, or the axes would differ by their topics."""
    default = torch.zeros(1, dtype=torch.int64)
    rows = (torch.cat([default, some]), torch.cat([default, others]))
    return cosine(*(axis_of(half[chosen]) for half, chosen in zip(halves, rows, strict=True)))


def _top_dims_share(axis_LD: Tensor) -> Float[Tensor, " layer"]:
    squares_LD = axis_LD.square()
    top_LK = squares_LD.topk(min(_TOP_DIMENSIONS, squares_LD.shape[1]), dim=-1).values
    return top_LK.sum(-1) / squares_LD.sum(-1).clamp_min(1e-30)
