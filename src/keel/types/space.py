"""Values computed from activations: role and trait vectors, their spaces, the Assistant Axis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from keel.arrays import Array, as_numpy, torch
from keel.errors import NotFiniteError, UsageError


@dataclass(frozen=True)
class Activations:
    """Mean and norm of the residual stream over the content tokens of one response."""

    means_LD: Float[Array, "layer hidden"]
    """Mean over the response's content tokens of each block's output; summed in float32."""
    norms_L: Float[Array, " layer"]
    """Mean over the same tokens of the Euclidean norm of each block's output."""
    tokens: int
    """Number of content tokens averaged."""


@dataclass(frozen=True)
class ActivationBatch:
    """Mean activations of some responses, one row per rollout."""

    rollout_ids: tuple[str, ...]
    means_BLD: Float[Array, "rollout layer hidden"]
    norms_BL: Float[Array, "rollout layer"]
    tokens_B: Int[Array, " rollout"] | None = None
    """Content tokens that each mean is over; None in runs from before that was kept."""


@dataclass(frozen=True)
class ModelIdentity:
    """Identity of the model that an artefact was made on, compared before the artefact is used."""

    model_id: str
    layers: int
    hidden_size: int
    revision: str = ""
    weights_hash: str = ""
    """Fingerprint of the weight files; empty where the model was given as an object."""
    template_hash: str = ""
    dtype: str = ""

    def mismatch(self, other: ModelIdentity) -> str | None:
        """How `other` differs from this model, in words; None where it may be the same."""
        if (self.layers, self.hidden_size) != (other.layers, other.hidden_size):
            return (
                f"{self.layers} layers × {self.hidden_size} ({self.model_id}) against "
                f"{other.layers} × {other.hidden_size} ({other.model_id})"
            )
        for name in ("weights_hash", "template_hash"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine and theirs and mine != theirs:
                return (
                    f"{name} {mine[:12]} ({self.model_id}) against {theirs[:12]} ({other.model_id})"
                )
        return None


SOMEWHAT = " (somewhat)"
"""Ends the name of a vector of answers somewhat in role, where it stands beside the `fully` one."""


@dataclass(frozen=True)
class PersonaVector:
    """Mean activation of one role's rollouts under one label."""

    role: str
    """The role's name; where its labels are kept apart, with the label, so that it is unique."""
    label: Literal["fully", "somewhat", "all"]
    vector_LD: Float[Array, "layer hidden"]
    count: int
    """Rollouts averaged."""


@dataclass(frozen=True)
class PersonaSpace:
    """PCA of role vectors at every layer: mean-centred only, PC1 towards the Assistant."""

    roles: tuple[str, ...]
    mean_LD: Float[Array, "layer hidden"]
    components_LKD: Float[Array, "layer component hidden"]
    """Orthonormal rows."""
    variance_ratio_LK: Float[Array, "layer component"]
    loadings_LRK: Float[Array, "layer role component"]
    """Cosine of each centred role vector with each component (the paper's loadings)."""
    coordinates_LRK: Float[Array, "layer role component"]
    """Coordinates of each centred role vector along each component, raw units."""
    default_loadings_LK: Float[Array, "layer component"]
    default_coordinates_LK: Float[Array, "layer component"]

    def components_for(self, share: float, layer: int) -> int | None:
        """How many components reach `share` (0 to 1) of the variance; None if those kept do not."""
        reached = as_numpy(self.variance_ratio_LK[layer]).cumsum() >= share - 1e-6
        return int(reached.argmax()) + 1 if reached.any() else None


@dataclass(frozen=True)
class AssistantAxis:
    """Mean default activation minus mean role vector, at every layer (Lu et al. 2026, §3.1)."""

    vector: Float[Array, "layer hidden"]
    """Raw, float32, assistant-ward."""
    layer: int
    """Recommended layer for reading and steering."""
    default_projection: Float[Array, " layer"]
    """⟨mean default activation, direction⟩ at each layer: 1 in gap units."""
    role_projection: Float[Array, " layer"]
    """⟨mean role vector, direction⟩ at each layer: 0 in gap units."""
    residual_norm: Float[Array, " layer"]
    """Mean per-token norm of the residual stream over default responses."""
    identity: ModelIdentity
    provenance: dict[str, Any] = field(default_factory=dict)
    """Origin of the axis: counts, labels, settings, source file."""

    def __post_init__(self) -> None:
        if not np.isfinite(as_numpy(self.vector)).all():
            raise NotFiniteError("the axis holds NaN or Inf; look at the activations it came from")
        if not 0 <= self.layer < self.vector.shape[0]:
            raise UsageError(
                f"axis layer is {self.layer}, expected 0 to {self.vector.shape[0] - 1}"
            )

    @property
    def direction(self) -> Float[Array, "layer hidden"]:
        """Unit vectors along the axis; zero where the axis is."""
        return torch.nn.functional.normalize(self.vector, dim=-1)

    @property
    def gap(self) -> Float[Array, " layer"]:
        """Default minus role projection at each layer: the length of one gap unit."""
        return self.default_projection - self.role_projection

    def in_gaps(self, projection: float, layer: int) -> float:
        """A raw projection at a layer in gap units: 0 is the role mean, 1 the default mean.

        Raises UsageError where the axis does not know both means, as an imported one may not.
        """
        gap = float(self.gap[layer])
        if not math.isfinite(gap) or gap == 0:
            raise UsageError(
                f"this axis does not know where default and roles stand at layer {layer} "
                f"(gap {gap:.3g}); use raw projections, or an axis that was extracted"
            )
        return (projection - float(self.role_projection[layer])) / gap


@dataclass(frozen=True)
class AxisFolds:
    """The axis from each fold of the questions: how far it is known, and what of it is noise."""

    contrast_FLD: Float[Array, "fold layer hidden"]
    """Default mean minus mean of the role means, over the fold's questions."""
    weight_F: Float[Array, " fold"]
    """Default answers in the fold; 0 where the default or every role has none."""
    role_spread_L: Float[Array, " layer"]
    """Variance between roles summed over dimensions, the noise of their answers taken out."""


@dataclass(frozen=True)
class TraitVector:
    """Mean activation of a trait's encouraged answers minus that of the discouraged ones."""

    trait: str
    vector_LD: Float[Array, "layer hidden"]
    pairs: int
    """Pairs of answers: to the same question, under both prompts of one pair."""
    judged: int
    """Pairs with both answers judged; 0 where no judge was used."""
    differing: int
    """Judged pairs whose two answers differ enough."""


@dataclass(frozen=True)
class TraitAxis:
    """Cosines of the trait vectors with the Assistant Axis, at every layer.

    Noise is taken out of both. Intervals are 95 %, about other questions, answers and roles; −1 to
    1 where noise leaves nothing to compare.
    """

    cosine_LN: Float[Array, "layer trait"]
    """Positive where the encouraged trait points towards the Assistant."""
    low_LN: Float[Array, "layer trait"]
    high_LN: Float[Array, "layer trait"]


@dataclass(frozen=True)
class TraitMap:
    """Trait space of one run: PCA of trait vectors, with the default's coordinates in it."""

    vectors: tuple[TraitVector, ...]
    """Vectors of the traits kept, in the order of `space.roles`."""
    dropped: dict[str, int]
    """Traits whose two sides differ in too few pairs, with the number of pairs that differ."""
    space: PersonaSpace
    """PCA of trait vectors; its `roles` are traits. The default's coordinates are
    counted from the midpoint of all encouraged and discouraged means."""
    default_position_LN: Float[Array, "layer trait"] = field(metadata={"key": "default_place_LN"})
    """The default's mean along each trait: 0 is the discouraged mean, 1 the encouraged one."""
    split_half_LN: Float[Array, "layer trait"]
    """Cosine of the vectors from the two halves of the questions; NaN where one half is empty."""
    layer: int
    """Layer that the map is read at: the axis' layer, or the middle where there is no axis."""
    axis: TraitAxis | None = None
    """None where the run has no roles, hence no axis."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Settings and judge that the map was made with."""
    warnings: tuple[str, ...] = ()

    @property
    def traits(self) -> tuple[str, ...]:
        """Names of the traits kept."""
        return self.space.roles
