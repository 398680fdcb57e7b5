"""What is compared, and how."""

from __future__ import annotations

from dataclasses import dataclass

from keel.errors import UsageError
from keel.types import ModelIdentity, PersonaMap, TraitMap


@dataclass(frozen=True)
class RunMaps:
    """The maps of one run."""

    name: str
    identity: ModelIdentity
    roles: PersonaMap | None
    traits: TraitMap | None

    @property
    def layer(self) -> int:
        """Where its maps are read."""
        if self.roles is not None:
            return self.roles.axis.layer
        assert self.traits is not None
        return self.traits.layer

    def __post_init__(self) -> None:
        if self.roles is None and self.traits is None:
            raise UsageError(f"run {self.name} holds no map; extract one first")

    def has_shape_of(self, other: RunMaps) -> bool:
        """Whether vectors of the two can be laid on one another."""
        mine, theirs = self.identity, other.identity
        return (mine.layers, mine.hidden_size) == (theirs.layers, theirs.hidden_size)
