"""A study: planted data drawn many times, and how often Keel's statements about them were right."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.random import Generator

from keel.types import Interval


@dataclass(frozen=True)
class Known:
    """An interval, and the truth of this very draw."""

    interval: Interval
    truth: float


Statement = Interval | Known | float | None
"""An interval; a p-value of a true null; None where Keel says that it cannot tell."""
Kind = Literal["interval", "p-value"]

TARGETS: Mapping[Kind, tuple[float, float]] = {
    "interval": (0.93, 0.97),
    "p-value": (0.035, 0.065),
}
"""Share of intervals that should hold the truth; of true nulls rejected at 5 %."""
_ALPHA = 0.05
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Study:
    """One design of planted data and what Keel states about each draw of it."""

    group: str
    """What it is a design of; designs of one group share a table."""
    design: str
    """In words: `10 personas of 10 items`."""
    simulate: Callable[[Generator], Mapping[str, Statement]]
    """Statistic -> what Keel states of one draw."""
    draws: int
    truths: Mapping[str, float] = field(default_factory=dict)
    """Statistic -> planted value; where it is missing, the mean of Keel's values over all draws:
    what data of this size give on average."""

    def run(self, draws: int | None = None) -> Iterator[Row]:
        """A row for each statistic; the same study draws the same data each time."""
        count = self.draws if draws is None else draws
        stated: dict[str, list[Statement]] = {}
        for number in range(count):
            rng = np.random.default_rng(
                [zlib.crc32(f"{self.group}/{self.design}".encode()), number]
            )
            for name, statement in self.simulate(rng).items():
                stated.setdefault(name, []).append(statement)
        for name, statements in stated.items():
            yield self._row(name, statements)

    def _row(self, name: str, statements: Sequence[Statement]) -> Row:
        given = [statement for statement in statements if statement is not None]
        p_values = [p for p in given if isinstance(p, float)]
        if p_values:
            hits = sum(p < _ALPHA for p in p_values)
            return Row(
                name, self.group, self.design, "p-value", hits, len(p_values), len(statements)
            )
        values = [each.value for each in given if isinstance(each, Interval)]
        truth = self.truths.get(name, float(np.mean(values)) if values else 0.0)
        known = [each if isinstance(each, Known) else Known(each, truth) for each in given
                 if not isinstance(each, float)]  # fmt: skip
        hits = sum(_holds(each.interval, each.truth) for each in known)
        return Row(name, self.group, self.design, "interval", hits, len(known), len(statements))


def _holds(interval: Interval, truth: float) -> bool:
    return interval.low - _ROUNDING <= truth <= interval.high + _ROUNDING


@dataclass(frozen=True)
class Row:
    """How often Keel was right in one design, or rejected a true null."""

    statistic: str
    group: str
    design: str
    kind: Kind
    hits: int
    """Intervals that hold the truth, or true nulls rejected at 5 %."""
    given: int
    """Draws in which Keel gave a number."""
    draws: int

    @property
    def share(self) -> float:
        """Share (0 to 1) of the numbers given; NaN where there was none."""
        return self.hits / self.given if self.given else float("nan")

    @property
    def error(self) -> float:
        """Monte Carlo standard error of the share."""
        if not self.given:
            return float("nan")
        share = (self.hits + 1) / (self.given + 2)  # 0 of 400 is not known without error
        return float((share * (1 - share) / self.given) ** 0.5)

    @property
    def is_met(self) -> bool:
        """Whether the share is in its target's range, give or take two Monte Carlo errors."""
        low, high = TARGETS[self.kind]
        return not self.given or low - 2 * self.error <= self.share <= high + 2 * self.error
