"""Two runs compared: their spaces, vectors, axes, and where the default went."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float

from keel.arrays import Array
from keel.types.results import Interval


@dataclass(frozen=True)
class SpaceComparison:
    """Correlation of two spaces' loadings over the names in common. Needs no common width."""

    names: tuple[str, ...]
    """Roles, or traits, of both."""
    layers: tuple[int, int]
    """Layer at which each space is read."""
    components: tuple[Interval, ...]
    """Correlation of loadings on PC1 of both, on PC2 of both, ...; past PC1 its absolute value, for
    only PC1's sign has a meaning. Intervals are about other names."""
    correlations_KK: Float[Array, "component other"]
    """Signed correlation of every component of the first space with every one of the second."""
    null: float
    """|r| (0 to 1) that so many unrelated names reach in one of twenty, on one pair of numbers."""
    partner_null: float
    """The same of the largest over all components of the second space."""

    @property
    def partners(self) -> tuple[int, ...]:
        """For each component of the first space the second's (0-based) that is most like it."""
        return tuple(self.correlations_KK.abs().argmax(1).tolist())


@dataclass(frozen=True)
class VectorComparison:
    """Cosines between the vectors of two models of one width."""

    names: tuple[str, ...]
    cosines: tuple[float, ...]
    """One per name, at `layer`."""
    layer: int
    by_layer: tuple[Interval, ...]
    """Mean over names, at every layer; intervals are about other names."""


@dataclass(frozen=True)
class Shift:
    """Change of the default's mean along one role or trait, from the first model to the second."""

    name: str
    share: float
    """1 is the role's whole distance from the mean role, or from the trait's discouraged mean to
    its encouraged one; negative is away from it."""
    cosine: float
    """Cosine of the whole change with this direction."""


@dataclass(frozen=True)
class DefaultShift:
    """Change of the default's mean activation from the first model to the second."""

    layer: int
    length: float
    """Raw."""
    gaps: float
    """Along the first model's axis: 1 is its distance from the role mean to the default."""
    roles: tuple[Shift, ...]
    """Most towards first."""
    traits: tuple[Shift, ...]


@dataclass(frozen=True)
class RunComparison:
    """Comparison of two runs; what they do not share is None."""

    first: str
    second: str
    roles: SpaceComparison | None = None
    traits: SpaceComparison | None = None
    standings: Interval | None = None
    """Correlation of the roles' projections on the two axes; the interval is about other roles."""
    leanings: Interval | None = None
    """Correlation of the traits' cosines with the two axes; the interval is about other traits."""
    axes: tuple[Interval, ...] | None = None
    """Cosine of the two axes at every layer, noise taken out; intervals are about other roles,
    questions and answers. Models of one width only, as all that follows."""
    axes_null: tuple[float, ...] | None = None
    """Cosine at every layer of two axes that have no role in common: the default's part of it."""
    role_vectors: VectorComparison | None = None
    """Role vectors less the mean of the roles in common."""
    trait_vectors: VectorComparison | None = None
    shift: DefaultShift | None = None
    warnings: tuple[str, ...] = ()
