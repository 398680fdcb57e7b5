"""How the maps of roles and of traits are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from keel.errors import UsageError
from keel.types import Judgement

Counting = Literal["all", "fully", "somewhat", "playing"]


@dataclass(frozen=True)
class MapSettings:
    """How a persona map is made."""

    label: Counting = "all"
    """Which rollouts make a role's vector: `all` but those judged to play nothing, those judged
    `fully` or `somewhat` in role, or `playing`, which is both. The default's always count."""
    min_count: int = 10
    """Rollouts that a role needs; roles with fewer are dropped and listed."""
    components: int = 10
    """Principal components to keep, at most one fewer than roles."""
    bootstrap: int = 200
    """Resamples of roles and questions behind each interval."""
    null_shuffles: int = 50
    """Shuffles of labels behind the null of |cos(axis, PC1)|."""
    folds_bytes: int = 2 * 2**30
    """Memory for the sums of roles × question folds; fewer folds are made where they do not fit."""
    seed: int = 0
    """Decides every resample, shuffle and split."""

    def __post_init__(self) -> None:
        if self.label not in get_args(Counting):
            expected = ", ".join(get_args(Counting))
            raise UsageError(f"label is {self.label!r}, expected one of {expected}")
        for name in ("min_count", "components", "bootstrap", "null_shuffles", "folds_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected 1 or more")

    def counts(self, judgement: Judgement | None) -> bool:
        """Whether a rollout with this judgement counts towards its role."""
        label = "unjudged" if judgement is None else judgement.label
        match self.label:
            case "all":
                return label != "none"
            case "playing":
                return label in ("fully", "somewhat")
            case chosen:
                return label == chosen


@dataclass(frozen=True)
class TraitSettings:
    """How a trait map is made."""

    min_pairs: int = 10
    """Pairs of answers that must differ for a trait to be kept; the others are dropped, listed."""
    min_difference: float = 50.0
    """By how much a pair's scores (0 to 100) must differ."""
    judged_pairs: int = 20
    """Pairs of each trait whose likelihood is measured where no judge was asked for."""
    components: int = 10
    """Principal components to keep, at most one fewer than traits."""
    bootstrap: int = 200
    """Resamples of questions behind each interval."""
    folds_bytes: int = 2 * 2**30
    """Memory for the sums of traits × question folds; fewer folds are made where they do not
    fit."""
    seed: int = 0
    """Decides every resample."""

    def __post_init__(self) -> None:
        for name in ("min_pairs", "components", "bootstrap", "folds_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if self.judged_pairs < self.min_pairs:
            raise UsageError(
                f"judged_pairs is {self.judged_pairs}, expected min_pairs ({self.min_pairs}) or "
                "more: no trait could have enough"
            )
