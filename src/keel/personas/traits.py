"""Trait space of one run: trait vectors, their principal components, the axis and the default.

A trait's vector is the mean activation of the answers that were encouraged in it minus that of the
discouraged ones. Sums are streamed: what is kept does not grow with the rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from keel.cosines import FoldedVector, noise_free_cosine
from keel.errors import TooFewSamplesError
from keel.geometry import cosine
from keel.personas.axis import fit_space
from keel.personas.cells import Cells, RolloutIndex, check_default, check_shape, gather_cells
from keel.settings import TraitSettings
from keel.types import (
    ActivationBatch,
    AssistantAxis,
    Judgement,
    ModelIdentity,
    PersonaMap,
    Prompt,
    TraitAxis,
    TraitMap,
    TraitSide,
    TraitVector,
)

FEWEST_TRAITS = 3
_MOST_CELLS = 20_000
"""No Gram matrix over all cells is made here, so that memory alone bounds the folds."""
_MOST_NAMED = 12
_UNSTABLE = 0.5

PairTest = Callable[[float, float], bool]
"""Whether the scores of an encouraged and a discouraged answer differ enough."""


@dataclass(frozen=True)
class PairCounts:
    """How many pairs of answers to one question, encouraged and discouraged, a trait has."""

    pairs: int
    judged: int
    """Pairs of which both answers were judged."""
    differing: int
    """Of those, the pairs that differ enough."""

    @property
    def counted(self) -> int:
        """Pairs that speak for the trait: those that differ, or all where none was judged."""
        return self.differing if self.judged else self.pairs


def map_traits(
    prompts: Sequence[Prompt],
    batches: Callable[[], Iterable[ActivationBatch]],
    *,
    identity: ModelIdentity,
    axis: AssistantAxis | None = None,
    roles: PersonaMap | None = None,
    judgements: Mapping[str, Judgement] | None = None,
    differs: PairTest | None = None,
    settings: TraitSettings = TraitSettings(),
) -> TraitMap:
    """Vectors and space of the traits among the prompts, with the axis and the default in it.

    A trait is kept when enough of its pairs of answers differ, by `differs`, in their judgements;
    without judgements every pair counts. `prompts` holds those of traits and of the default.
    `roles` is the map that the axis was made with: with it, the intervals of cosines with the axis
    are about other roles, too, and without it the axis is taken as it is.

    Raises TooFewSamplesError with fewer than three traits left, or without a default rollout;
    NotFiniteError on NaN or Inf; ModelMismatchError on activations of another shape.
    """
    all_pairs = count_pairs(prompts, judgements or {}, differs)
    pairs = {name: n for name, n in all_pairs.items() if n.counted >= settings.min_pairs}
    dropped = {name: n.counted for name, n in all_pairs.items() if name not in pairs}
    if len(pairs) < FEWEST_TRAITS:
        best = ", ".join(str(n) for n in sorted(n.counted for n in all_pairs.values())[:-4:-1])
        raise TooFewSamplesError(
            f"{len(pairs)} of {len(all_pairs)} traits have {settings.min_pairs} pairs of answers "
            f"that differ, expected {FEWEST_TRAITS} or more; the fullest have {best or 'none'}: "
            "ask more questions, or lower min_pairs (--min-pairs)"
        )
    sides = [TraitSide(trait, way).role for trait in pairs for way in (True, False)]
    index = RolloutIndex.of(prompts, lambda prompt: True).keeping(sides)
    cells = gather_cells(index, batches(), settings.folds_bytes, most_cells=_MOST_CELLS)
    check_shape(cells, identity)
    check_default(cells)
    if empty := [side for side, count in cells.counts.items() if count == 0]:
        raise TooFewSamplesError(
            f"no answer to {empty[0]} has a token; extract again with more tokens, or without it"
        )
    means_NLD = cells.means()
    vectors_NLD = _contrast(means_NLD)
    split_LN = cosine(*(_contrast(cells.means(half)) for half in (0, 1))).T
    layer = len(split_LN) // 2 if axis is None else axis.layer
    # Given to PCA as the default is what, once centred, is the default's own displacement from the
    # middle of all sides: which side of a trait bears its name is a matter of words.
    middle_LD = means_NLD[1:].double().mean(0)
    default_LD = (means_NLD[0] - middle_LD + vectors_NLD.double().mean(0)).float()
    names = tuple(pairs)
    return TraitMap(
        vectors=tuple(
            TraitVector(name, vector_LD, count.pairs, count.judged, count.differing)
            for (name, count), vector_LD in zip(pairs.items(), vectors_NLD, strict=True)
        ),
        dropped=dropped,
        space=fit_space(names, vectors_NLD, default_LD, settings.components),
        default_position_LN=_default_positions(means_NLD),
        split_half_LN=split_LN,
        layer=layer,
        axis=None if axis is None else trait_axis_cosines(cells, axis.vector, roles),
        provenance={"settings": asdict(settings)},
        warnings=tuple(_warnings(names, split_LN[layer], dropped, pairs)),
    )


# --- pairs of answers ---


def differ_in_score(by: float) -> PairTest:
    """A test on a judge's 0 to 100: the encouraged answer scores higher by so much.

    Lu et al. 2026, appendix C, ask for 50.
    """
    return lambda more, less: more - less >= by


def gain_together(by: float) -> PairTest:
    """A test on the likelihood judge's nats per token, of pairs of answers.

    It asks what both answers gained from their prompts, on average. They then say different things,
    since their prompts contradict each other.
    """
    return lambda more, less: (more + less) / 2 >= by


def count_pairs(
    prompts: Sequence[Prompt],
    judgements: Mapping[str, Judgement],
    differs: PairTest | None,
) -> dict[str, PairCounts]:
    """Every trait among the prompts, with its pairs. Judgements are by rollout id."""
    ids = {(p.side, p.system_index, p.question_index): p.id for p in prompts if p.side}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for (side, system, question), id in ids.items():
        opposite = (side.opposite, system, question)
        if side.is_encouraged and opposite in ids:
            pairs.setdefault(side.trait, []).append((id, ids[opposite]))
    return {trait: _count(of_trait, judgements, differs) for trait, of_trait in pairs.items()}


def _count(
    pairs: Sequence[tuple[str, str]],
    judgements: Mapping[str, Judgement],
    differs: PairTest | None,
) -> PairCounts:
    scores = [
        (judgements[more].score, judgements[less].score)
        for more, less in pairs
        if more in judgements and less in judgements
    ]
    differing = sum(
        differs is None or differs(more, less)
        for more, less in scores
        if more is not None and less is not None
    )
    return PairCounts(len(pairs), len(scores), differing)


# --- vectors, and where the default and the axis lie ---


def _contrast(means_NLD: Float[Tensor, "row layer hidden"]) -> Float[Tensor, "trait layer hidden"]:
    """Encouraged minus discouraged, of rows that hold the default and then both sides in turn."""
    return means_NLD[1::2] - means_NLD[2::2]


def _default_positions(means_NLD: Tensor) -> Float[Tensor, "layer trait"]:
    """⟨default − discouraged, v⟩ / ⟨v, v⟩ for each trait vector v."""
    vectors_NLD = _contrast(means_NLD).double()
    above_NLD = means_NLD[0].double() - means_NLD[2::2].double()
    length_NL = vectors_NLD.square().sum(-1).clamp_min(1e-30)
    return ((above_NLD * vectors_NLD).sum(-1) / length_NL).T.float()


def trait_axis_cosines(
    cells: Cells, axis_LD: Float[Tensor, "layer hidden"], roles: PersonaMap | None
) -> TraitAxis:
    """Cosine of every trait's vector with the axis at every layer, noise taken out of both.

    `cells` hold the default and then both sides of each trait in turn. Without the map that the
    axis was made with, the axis is taken as it is.
    """
    traits, layers = len(cells.roles) // 2, len(axis_LD)
    parts_3LN = torch.zeros(3, layers, traits)
    for layer in range(layers):
        axis = _folded_axis(axis_LD[layer], roles, layer, cells.counts_NF.shape[1])
        for trait in range(traits):
            rows = slice(1 + 2 * trait, 3 + 2 * trait)
            counts_2F = cells.counts_NF[rows].double()
            means_2FD = cells.sums_NFLD[rows, :, layer].double() / counts_2F[..., None]
            weight_F = torch.where((counts_2F > 0).all(0), counts_2F.sum(0), 0.0)
            contrast_FD = (means_2FD[0] - means_2FD[1]).nan_to_num(0)
            with_axis = noise_free_cosine(FoldedVector(contrast_FD, weight_F), axis)
            ends = (with_axis.value, with_axis.low, with_axis.high)
            parts_3LN[:, layer, trait] = torch.tensor(ends)
    return TraitAxis(*parts_3LN)


def _folded_axis(
    axis_D: Float[Tensor, " hidden"], roles: PersonaMap | None, layer: int, folds: int
) -> FoldedVector:
    """The axis by folds, with its roles; the same in each fold where none are known."""
    if roles is None or roles.axis_folds is None:
        return FoldedVector(axis_D.expand(folds, -1), torch.ones(folds))
    kept = roles.axis_folds
    return FoldedVector(
        kept.contrast_FLD[:, layer],
        kept.weight_F,
        torch.stack([vector.vector_LD[layer] for vector in roles.vectors]),
        float(kept.role_spread_L[layer]),
    )


def _warnings(
    names: Sequence[str],
    split_N: Float[Tensor, " trait"],
    dropped: Mapping[str, int],
    pairs: Mapping[str, PairCounts],
) -> Iterator[str]:
    if not any(count.judged for count in pairs.values()):
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
