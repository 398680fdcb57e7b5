"""What is found of traits: their vectors, the space they span, where axis and default lie in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from keel.types.space import PersonaSpace


@dataclass(frozen=True)
class TraitVector:
    """Mean activation of a trait's encouraged answers minus that of the discouraged ones."""

    trait: str
    vector_LD: Float[Tensor, "layer hidden"]
    pairs: int
    """Pairs of answers: to the same question, under both prompts of one pair."""
    judged: int
    """Pairs of which both answers were judged; 0 where nothing was."""
    differing: int
    """Of those judged, the pairs whose two answers differ enough."""


@dataclass(frozen=True)
class TraitAxis:
    """How every trait vector lies to the Assistant Axis, at every layer.

    Intervals are of resampled questions, 95 %; the axis is held as it is.
    """

    cosine_LN: Float[Tensor, "layer trait"]
    """Positive where the trait, encouraged, points towards the Assistant."""
    low_LN: Float[Tensor, "layer trait"]
    high_LN: Float[Tensor, "layer trait"]


@dataclass(frozen=True)
class TraitMap:
    """Trait space of one run: PCA of trait vectors, with the axis and the default in it."""

    vectors: tuple[TraitVector, ...]
    """Those that were kept, in the order of `space.roles`."""
    dropped: dict[str, int]
    """Traits whose two sides differ in too few pairs, with how many do."""
    space: PersonaSpace
    """PCA of trait vectors; its `roles` are traits. The default's coordinates are
    counted from the midpoint of all encouraged and discouraged means."""
    default_position_LN: Float[Tensor, "layer trait"] = field(metadata={"key": "default_place_LN"})
    """The default's mean along each trait: 0 is the discouraged mean, 1 the encouraged one."""
    split_half_LN: Float[Tensor, "layer trait"]
    """Cosine of the vectors from the two halves of the questions; NaN where one half is empty."""
    layer: int
    """Where the map is read: the axis' layer, or the middle where there is no axis."""
    axis: TraitAxis | None = None
    """None where the run has no roles, hence no axis."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Settings and judge that the map was made with."""
    warnings: tuple[str, ...] = ()

    @property
    def traits(self) -> tuple[str, ...]:
        """Names of the traits kept."""
        return self.space.roles
