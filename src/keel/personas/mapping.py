"""The map of one run: role vectors, the axis, persona space, and how far each can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict

import torch
from jaxtyping import Float
from torch import Tensor

from keel.errors import TooFewSamplesError
from keel.geometry import cosine
from keel.personas.alignment import pc1_alignment
from keel.personas.cells import Cells, Places, gather_cells
from keel.personas.separation import Separation, project_held_out, separations
from keel.personas.settings import MapSettings
from keel.personas.space import fit_space
from keel.personas.warnings import map_warnings
from keel.types import (
    ActivationBatch,
    AssistantAxis,
    Interval,
    Judgement,
    LayerQuality,
    ModelIdentity,
    PersonaMap,
    PersonaVector,
    Prompt,
)

_SHALLOWEST, _DEEPEST = 0.25, 0.9
"""Depths among which a layer is recommended: the first follow words, the last the next one."""
_TOP_DIMENSIONS = 10


def map_personas(
    prompts: Sequence[Prompt],
    batches: Callable[[], Iterable[ActivationBatch]],
    *,
    identity: ModelIdentity,
    judgements: Mapping[str, Judgement] | None = None,
    settings: MapSettings = MapSettings(),
) -> PersonaMap:
    """Vectors, axis and persona space of rollouts whose activations stream from `batches`.

    `batches` is called twice. Rollouts' ids are those of their prompts. Without judgements every
    rollout of a role counts. Raises TooFewSamplesError without default rollouts, with fewer than
    three roles left or fewer than two questions; NotFiniteError on NaN or Inf.
    """
    counting = None
    if judgements is not None and settings.label != "all":
        counting = {id: settings.takes(one.label) for id, one in judgements.items()}
    places = Places.of(prompts, counting)
    gathered, fold_Q = gather_cells(places, batches(), settings.folds_bytes)
    cells, dropped = _enough(gathered, places, settings.min_count)
    kept = _only(places, cells.roles)
    halves = (_axis(cells.half(0)), _axis(cells.half(1)))
    held_out = project_held_out(batches(), kept, fold_Q, halves, settings.seed)
    separated = separations(held_out, resamples=settings.bootstrap, seed=settings.seed)
    quality = _quality(cells, halves, separated, settings)
    layer = recommended_layer([s.d_prime for s in separated])
    return _assemble(cells, quality, layer, identity=identity, dropped=dropped, settings=settings)


def recommended_layer(d_primes: Sequence[Interval]) -> int:
    """The layer with the greatest held-out effect, in standard deviations, away from both ends.

    Never by raw variance: norms grow with depth, and would choose the last layer always.
    """
    last = len(d_primes) - 1
    inner = [n for n in range(len(d_primes)) if _SHALLOWEST <= n / max(1, last) <= _DEEPEST]
    return max(inner or range(len(d_primes)), key=lambda n: (d_primes[n].value, -n))


def _enough(cells: Cells, places: Places, min_count: int) -> tuple[Cells, dict[str, int]]:
    """The roles with enough rollouts; the others with how many they have."""
    kept = [role for role, count in cells.counts.items() if count >= min_count]
    dropped = {role: count for role, count in cells.counts.items() if count < min_count}
    if cells.default_count == 0:
        raise TooFewSamplesError("there is no default rollout; the axis needs the model as itself")
    if places.questions < 2:
        raise TooFewSamplesError("there is one question; two are needed to hold one out")
    if len(kept) < 3:
        raise TooFewSamplesError(
            f"{len(kept)} roles have {min_count} rollouts or more, expected at least 3; ask more "
            f"questions or lower min_count (the best have {sorted(cells.counts.values())[-3:]})"
        )
    return cells.keeping(kept), dropped


def _only(places: Places, roles: Sequence[str]) -> Places:
    """The places of the default and the roles kept, in their new rows."""
    new = {0: 0, **{1 + places.roles.index(r): 1 + n for n, r in enumerate(roles)}}
    rows = {id: new[row] for id, row in places.row.items() if row in new}
    return Places(tuple(roles), rows, places.question, places.questions)


def _axis(means_NLD: Float[Tensor, "row layer hidden"]) -> Float[Tensor, "layer hidden"]:
    """Mean default − unweighted mean of role vectors (Lu et al. 2026, §3.1)."""
    # A role without rollouts among these questions has no mean.
    return means_NLD[0] - means_NLD[1:].nanmean(0)


def _quality(
    cells: Cells,
    halves: tuple[Tensor, Tensor],
    separated: Sequence[Separation],
    settings: MapSettings,
) -> tuple[LayerQuality, ...]:
    axis_LD = _axis(cells.means_NLD)
    aligned = pc1_alignment(
        cells, resamples=settings.bootstrap, shuffles=settings.null_shuffles, seed=settings.seed
    )
    heights_NL = (cells.means_NLD * axis_LD).sum(-1)
    percentile_L = (heights_NL[1:] < heights_NL[0]).float().mean(0)
    questions_L = cosine(*halves)
    roles_L = _split_roles(cells, settings.seed)
    squares_LD = axis_LD.square()
    top_L = squares_LD.topk(min(_TOP_DIMENSIONS, squares_LD.shape[1]), -1).values.sum(-1)
    return tuple(
        LayerQuality(
            layer=n,
            axis_norm=float(axis_LD[n].norm()),
            default_percentile=float(percentile_L[n]),
            d_prime=one.d_prime,
            auc=one.auc,
            split_half_questions=float(questions_L[n]),
            split_half_roles=float(roles_L[n]),
            cos_pc1=aligned[n][0],
            cos_pc1_null=aligned[n][1],
            top_dims_share=float(top_L[n] / squares_LD[n].sum().clamp_min(1e-30)),
        )
        for n, one in enumerate(separated)
    )


def _split_roles(cells: Cells, seed: int) -> Float[Tensor, " layer"]:
    """Cosine of the axes from two halves of the roles, each against its own half of the default."""
    order = torch.randperm(len(cells.roles), generator=torch.Generator().manual_seed(seed))
    middle = len(order) // 2
    axes = [
        cells.half(number)[0] - cells.means_NLD[1 + rows].mean(0)
        for number, rows in enumerate((order[:middle], order[middle:]))
    ]
    return cosine(*axes)


def _assemble(
    cells: Cells,
    quality: tuple[LayerQuality, ...],
    layer: int,
    *,
    identity: ModelIdentity,
    dropped: dict[str, int],
    settings: MapSettings,
) -> PersonaMap:
    default_LD, roles_RLD = cells.means_NLD[0], cells.means_NLD[1:]
    axis_LD = _axis(cells.means_NLD)
    direction_LD = torch.nn.functional.normalize(axis_LD, dim=-1)
    axis = AssistantAxis(
        vector=axis_LD,
        layer=layer,
        default_projection=(default_LD * direction_LD).sum(-1),
        role_projection=(roles_RLD.mean(0) * direction_LD).sum(-1),
        residual_norm=cells.norms_L,
        identity=identity,
        provenance={
            "settings": asdict(settings),
            "default rollouts": cells.default_count,
            "role rollouts": sum(cells.counts.values()),
            "roles": len(cells.roles),
        },
    )
    # Vectors are named after their label; "playing" mixes two, as "all" does.
    label = settings.label if settings.label != "playing" else "all"
    vectors = tuple(
        PersonaVector(role, label, roles_RLD[n], cells.counts[role])
        for n, role in enumerate(cells.roles)
    )
    return PersonaMap(
        vectors=vectors,
        default_LD=default_LD,
        default_count=cells.default_count,
        dropped=dropped,
        axis=axis,
        space=fit_space(cells.roles, roles_RLD, default_LD, settings.components),
        quality=quality,
        warnings=map_warnings(cells, quality[layer], dropped),
    )
