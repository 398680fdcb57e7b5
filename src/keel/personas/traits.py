"""Trait space of one run: trait vectors, their principal components, the axis and the default.

A trait's vector is the mean activation of the answers that were encouraged in it minus that of the
discouraged ones. Sums are streamed: what is kept does not grow with the rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict

from jaxtyping import Float
from torch import Tensor

from keel.errors import ModelMismatchError, TooFewSamplesError
from keel.geometry import cosine
from keel.personas.cells import Cells, gather_cells
from keel.personas.leaning import lean_on_axis
from keel.personas.pairs import Pairs, PairTest, count_pairs
from keel.personas.places import Places
from keel.personas.space import fit_space
from keel.settings import TraitSettings
from keel.types import (
    ActivationBatch,
    AssistantAxis,
    Judgement,
    ModelIdentity,
    Prompt,
    TraitMap,
    TraitSide,
    TraitVector,
)

_FEWEST_TRAITS = 3
_MOST_CELLS = 20_000
"""No Gram matrix over all cells is made here, so that memory alone bounds the folds."""
_MOST_NAMED = 12
_UNSTABLE = 0.5


def map_traits(
    prompts: Sequence[Prompt],
    batches: Callable[[], Iterable[ActivationBatch]],
    *,
    identity: ModelIdentity,
    axis: AssistantAxis | None = None,
    judgements: Mapping[str, Judgement] | None = None,
    differs: PairTest | None = None,
    settings: TraitSettings = TraitSettings(),
) -> TraitMap:
    """Vectors and space of the traits among the prompts, with the axis and the default in it.

    A trait is kept when enough of its pairs of answers differ, by `differs`, in their judgements;
    without judgements every pair counts. `prompts` holds those of traits and of the default.

    Raises TooFewSamplesError with fewer than three traits left, or without a default rollout;
    NotFiniteError on NaN or Inf; ModelMismatchError on activations of another shape.
    """
    pairs = count_pairs(prompts, judgements, differs)
    kept = _enough(pairs, settings.min_pairs)
    sides = [TraitSide(trait, way).role for trait in kept for way in (True, False)]
    places = Places.of(prompts, lambda prompt: True).keeping(sides)
    cells = gather_cells(places, batches(), settings.folds_bytes, most_cells=_MOST_CELLS)
    _check(cells, identity)
    dropped = {name: found.counted for name, found in pairs.items() if name not in kept}
    return _assemble(
        cells, {name: pairs[name] for name in kept}, axis=axis, dropped=dropped, settings=settings
    )


def _enough(pairs: Mapping[str, Pairs], min_pairs: int) -> list[str]:
    """Names of the traits with enough pairs that count."""
    kept = [name for name, found in pairs.items() if found.counted >= min_pairs]
    if len(kept) < _FEWEST_TRAITS:
        best = ", ".join(str(n) for n in sorted(p.counted for p in pairs.values())[:-4:-1])
        raise TooFewSamplesError(
            f"{len(kept)} of {len(pairs)} traits have {min_pairs} pairs of answers that differ, "
            f"expected {_FEWEST_TRAITS} or more; the fullest have {best or 'none'}: ask more "
            "questions, or lower min_pairs (--min-pairs)"
        )
    return kept


def _check(cells: Cells, identity: ModelIdentity) -> None:
    found, expected = cells.sums_NFLD.shape[2:], (identity.layers, identity.hidden_size)
    if found != expected:
        raise ModelMismatchError(
            f"activations are of {found[0]} layers × {found[1]}, and {identity.model_id} has "
            f"{expected[0]} × {expected[1]}; pass the activations of that model"
        )
    if cells.default_count == 0:
        raise TooFewSamplesError("there is no default rollout; ask the model as itself, too")
    empty = [side for side, count in cells.counts.items() if count == 0]
    if empty:
        raise TooFewSamplesError(
            f"no answer to {empty[0]} has a token; extract again with more tokens, or without it"
        )


def _assemble(
    cells: Cells,
    pairs: Mapping[str, Pairs],
    *,
    axis: AssistantAxis | None,
    dropped: dict[str, int],
    settings: TraitSettings,
) -> TraitMap:
    names, means_NLD = tuple(pairs), cells.means()
    vectors_NLD = _contrast(means_NLD)
    halves_NLD = [_contrast(cells.half(number)) for number in (0, 1)]
    split_LN = cosine(*halves_NLD).T
    layer = len(split_LN) // 2 if axis is None else axis.layer
    return TraitMap(
        vectors=tuple(
            TraitVector(name, vector_LD, found.pairs, found.judged, found.differing)
            for (name, found), vector_LD in zip(pairs.items(), vectors_NLD, strict=True)
        ),
        dropped=dropped,
        space=fit_space(names, vectors_NLD, _aside(means_NLD, vectors_NLD), settings.components),
        default_position_LN=_default_places(means_NLD),
        split_half_LN=split_LN,
        layer=layer,
        axis=None if axis is None else lean_on_axis(cells, axis.vector, settings),
        provenance={"settings": asdict(settings)},
        warnings=tuple(_warnings(names, split_LN[layer], dropped, pairs)),
    )


def _contrast(means_NLD: Float[Tensor, "row layer hidden"]) -> Float[Tensor, "trait layer hidden"]:
    """Encouraged minus discouraged, of rows that hold the default and then both sides in turn."""
    return means_NLD[1::2] - means_NLD[2::2]


def _aside(means_NLD: Tensor, vectors_NLD: Tensor) -> Float[Tensor, "layer hidden"]:
    """What to give PCA as the default, so that once centred it is the default's own displacement
    from the middle of all sides: which side of a trait bears its name is a matter of words."""
    middle_LD = means_NLD[1:].double().mean(0)
    return (means_NLD[0] - middle_LD + vectors_NLD.double().mean(0)).float()


def _default_places(means_NLD: Tensor) -> Float[Tensor, "layer trait"]:
    """⟨default − discouraged, v⟩ / ⟨v, v⟩ for each trait vector v."""
    vectors_NLD = _contrast(means_NLD).double()
    above_NLD = means_NLD[0].double() - means_NLD[2::2].double()
    length_NL = vectors_NLD.square().sum(-1).clamp_min(1e-30)
    return ((above_NLD * vectors_NLD).sum(-1) / length_NL).T.float()


def _warnings(
    names: Sequence[str],
    split_N: Float[Tensor, " trait"],
    dropped: Mapping[str, int],
    pairs: Mapping[str, Pairs],
) -> Iterable[str]:
    if not any(found.judged for found in pairs.values()):
        yield "No pair of answers was judged, so no trait was left out for want of effect."
    if dropped:
        named = [f"{name} ({count})" for name, count in dropped.items()][:_MOST_NAMED]
        more = ["…"] if len(dropped) > len(named) else []
        yield (
            f"Traits left out, whose answers differ in too few pairs: {', '.join(named + more)}; "
            f"{len(dropped)} of {len(dropped) + len(names)}."
        )
    unstable = [
        name for name, value in zip(names, split_N.tolist(), strict=True) if value < _UNSTABLE
    ]
    if unstable:
        yield (
            f"Vectors of {len(unstable)} of {len(names)} traits from two halves of the questions "
            f"agree to a cosine below {_UNSTABLE}: {', '.join(unstable[:_MOST_NAMED])}."
        )
