"""How a persona map is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from keel.errors import UsageError


@dataclass(frozen=True)
class MapSettings:
    """How a persona map is made."""

    label: Literal["all", "fully", "somewhat", "playing"] = "all"
    """Which rollouts make a role's vector: all of them, or those judged so; `playing` is fully or
    somewhat. The default's are never filtered."""
    min_count: int = 10
    """Rollouts that a role needs; roles with fewer are dropped and listed."""
    components: int = 10
    """Principal components to keep."""
    bootstrap: int = 200
    """Resamples of roles and questions behind each interval."""
    null_shuffles: int = 50
    """Shuffles of role labels behind the null of |cos(axis, PC1)|."""
    folds_bytes: int = 2 * 2**30
    """Memory for the sums of roles × question folds; fewer folds are made where they do not fit."""
    seed: int = 0
    """Decides every resample and shuffle."""

    def __post_init__(self) -> None:
        for name in ("min_count", "components", "bootstrap", "null_shuffles"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected 1 or more")

    def takes(self, label: str) -> bool:
        """Whether a rollout with this label counts towards its role."""
        if self.label == "all":
            return True
        return label in (("fully", "somewhat") if self.label == "playing" else (self.label,))
