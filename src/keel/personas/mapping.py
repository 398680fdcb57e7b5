"""The map of one run: role vectors, the axis, persona space, and how far each can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict

import torch
from jaxtyping import Float
from torch import Tensor

from keel.errors import ModelMismatchError, TooFewSamplesError, UsageError
from keel.personas.cells import Cells, axis_of, gather_cells
from keel.personas.places import Places
from keel.personas.quality import measure_quality, recommended_layer
from keel.personas.separation import held_out_separations
from keel.personas.space import fit_space
from keel.personas.warnings import map_warnings
from keel.settings import MapSettings
from keel.types import (
    ActivationBatch,
    AssistantAxis,
    Judgement,
    LayerQuality,
    ModelIdentity,
    PersonaMap,
    PersonaVector,
    Prompt,
)

_FEWEST_ROLES = 3


def map_personas(
    prompts: Sequence[Prompt],
    batches: Callable[[], Iterable[ActivationBatch]],
    *,
    identity: ModelIdentity,
    judgements: Mapping[str, Judgement] | None = None,
    settings: MapSettings = MapSettings(),
) -> PersonaMap:
    """Vectors, axis and persona space of rollouts whose activations stream from `batches`.

    `batches` is called twice, and must start anew each time; what is kept does not grow with the
    rollouts, but for one number per layer of a sample. Rollouts' ids are those of their prompts.
    Without judgements every rollout of these prompts counts.

    Raises TooFewSamplesError with fewer than three roles left, or where a half of the questions
    lacks the default or every role; NotFiniteError on NaN or Inf; ModelMismatchError on activations
    of another shape than the model's; UsageError on a label without judgements to take it from.
    """
    places = Places.of(prompts, _counting(judgements, settings))
    gathered = gather_cells(places, batches(), settings.folds_bytes)
    _check_shape(gathered, identity)
    cells, dropped = _enough(gathered, settings.min_count)
    halves = (cells.half(0), cells.half(1))
    separated = held_out_separations(
        batches(),
        places.keeping(cells.roles),
        (axis_of(halves[0]), axis_of(halves[1])),
        resamples=settings.bootstrap,
        seed=settings.seed,
    )
    quality = measure_quality(cells, halves, separated, settings)
    return _assemble(cells, quality, identity=identity, dropped=dropped, settings=settings)


def _counting(
    judgements: Mapping[str, Judgement] | None, settings: MapSettings
) -> Callable[[Prompt], bool]:
    if judgements is not None:
        return lambda prompt: settings.counts(_label(judgements.get(prompt.id)))
    if settings.label != "all":
        raise UsageError(
            f"label is {settings.label!r}, and nothing was judged; judge first, or take 'all'"
        )
    return lambda prompt: True


def _label(judgement: Judgement | None) -> str:
    return "unjudged" if judgement is None else judgement.label


def _check_shape(cells: Cells, identity: ModelIdentity) -> None:
    found, expected = cells.sums_NFLD.shape[2:], (identity.layers, identity.hidden_size)
    if found != expected:
        raise ModelMismatchError(
            f"activations are of {found[0]} layers × {found[1]}, and {identity.model_id} has "
            f"{expected[0]} × {expected[1]}; pass the activations of that model"
        )


def _enough(cells: Cells, min_count: int) -> tuple[Cells, dict[str, int]]:
    """The roles with enough rollouts; the others with how many they have."""
    kept = [role for role, count in cells.counts.items() if count >= min_count]
    dropped = {role: count for role, count in cells.counts.items() if count < min_count}
    if len(kept) < _FEWEST_ROLES:
        best = ", ".join(str(count) for count in sorted(cells.counts.values())[:-4:-1])
        raise TooFewSamplesError(
            f"{len(kept)} of {len(cells.roles)} roles have {min_count} rollouts that count, "
            f"expected {_FEWEST_ROLES} or more; the fullest have {best or 'none'}: ask more "
            "questions, lower min_count, or take label 'all'"
        )
    found = cells.keeping(kept)
    _check_halves(found)
    return found, dropped


def _check_halves(cells: Cells) -> None:
    """Refuse what cannot be held out: each half needs both kinds of answers."""
    if cells.default_count == 0:
        raise TooFewSamplesError("there is no default rollout; ask the model as itself, too")
    for half in (0, 1):
        default, *roles = cells.counts_NF[:, half::2].sum(1).tolist()
        if not default or not any(roles):
            raise TooFewSamplesError(
                f"every other question has {default} default and {sum(roles)} role answers, "
                "expected some of both; ask default and roles the same questions, two or more"
            )


def _assemble(
    cells: Cells,
    quality: tuple[LayerQuality, ...],
    *,
    identity: ModelIdentity,
    dropped: dict[str, int],
    settings: MapSettings,
) -> PersonaMap:
    means_NLD = cells.means()
    layer = recommended_layer(quality)
    axis = _axis(cells, means_NLD, layer=layer, identity=identity, settings=settings)
    return PersonaMap(
        vectors=_vectors(cells, means_NLD, settings),
        default_LD=means_NLD[0],
        default_count=cells.default_count,
        dropped=dropped,
        axis=axis,
        space=fit_space(cells.roles, means_NLD[1:], means_NLD[0], settings.components),
        quality=quality,
        warnings=map_warnings(cells, quality[layer], dropped),
    )


def _vectors(
    cells: Cells, means_NLD: Float[Tensor, "row layer hidden"], settings: MapSettings
) -> tuple[PersonaVector, ...]:
    # `playing` mixes two labels, as `all` does; the axis' provenance says which it was.
    label = "all" if settings.label == "playing" else settings.label
    rows = zip(cells.counts.items(), means_NLD[1:], strict=True)
    return tuple(PersonaVector(role, label, vector, count) for (role, count), vector in rows)


def _axis(
    cells: Cells,
    means_NLD: Float[Tensor, "row layer hidden"],
    *,
    layer: int,
    identity: ModelIdentity,
    settings: MapSettings,
) -> AssistantAxis:
    vector = axis_of(means_NLD)
    # In float64: the two differ by far less than either is long.
    direction = torch.nn.functional.normalize(vector.double(), dim=-1)
    return AssistantAxis(
        vector=vector,
        layer=layer,
        default_projection=(means_NLD[0] * direction).sum(-1).float(),
        role_projection=(means_NLD[1:].mean(0) * direction).sum(-1).float(),
        residual_norm=cells.residual_norm_L,
        identity=identity,
        provenance={
            "label": settings.label,
            "roles": len(cells.roles),
            "role_rollouts": sum(cells.counts.values()),
            "default_rollouts": cells.default_count,
            "question_folds": cells.counts_NF.shape[1],
            "settings": asdict(settings),
        },
    )
