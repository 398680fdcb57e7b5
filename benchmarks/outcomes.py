"""What a benchmark found: its rounds, the ratios that matter, and the targets they meet or miss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measuring import Measurement, Rounds, Spread, ratios


@dataclass(frozen=True)
class Dial:
    """How much is measured."""

    is_quick: bool = False
    """Fewer rounds and smaller work, to see that everything runs."""
    repeats: int | None = None
    """Rounds of every benchmark; each one's own number where it is not set."""
    device: str = "cpu"
    """Where the benchmark of generation runs."""

    def rounds(self, usual: int, quick: int = 1) -> int:
        """Rounds of a benchmark that usually takes so many."""
        if self.repeats is not None:
            return self.repeats
        return quick if self.is_quick else usual


@dataclass(frozen=True)
class AtMost:
    """A ratio that should not be larger."""

    limit: float

    def is_met(self, ratio: float) -> bool:
        """Whether the ratio is small enough."""
        return ratio <= self.limit

    def __str__(self) -> str:
        return f"≤ {self.limit:g}"


@dataclass(frozen=True)
class AtLeast:
    """A ratio that should not be smaller."""

    limit: float

    def is_met(self, ratio: float) -> bool:
        """Whether the ratio is large enough."""
        return ratio >= self.limit

    def __str__(self) -> str:
        return f"≥ {self.limit:g}"


@dataclass(frozen=True)
class Comparison:
    """One ratio, and what was hoped for."""

    what: str
    ratio: Spread
    """Over the rounds, each round's own ratio."""
    target: AtMost | AtLeast | None = None
    """None where the ratio is shown for information only."""

    @property
    def is_met(self) -> bool | None:
        """Whether the median meets the target; None where there is none."""
        return None if self.target is None else self.target.is_met(self.ratio.median)


@dataclass(frozen=True)
class Outcome:
    """What one benchmark found in one setting."""

    name: str
    setting: str
    """Model, dtype, sizes: what the numbers hold for."""
    rounds: Rounds
    comparisons: tuple[Comparison, ...]
    tokens: int | None = None
    """Tokens that every arm worked on, where arms differ in nothing else."""
    notes: tuple[str, ...] = field(default_factory=tuple)
    """What else a reader must know: arms left out, whether the arms did the same work."""


def ratio_of(rounds: Rounds, quantity: str, arm: str, base: str) -> Spread:
    """arm / base in a quantity of Measurement, round by round."""
    return ratios(
        [getattr(one, quantity) for one in rounds[arm]],
        [getattr(one, quantity) for one in rounds[base]],
    )


def rounds_of(record: Mapping[str, Any]) -> Rounds:
    """Rounds as a measured process handed them on."""
    return {arm: [Measurement(**one) for one in found] for arm, found in record.items()}
