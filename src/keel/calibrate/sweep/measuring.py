"""What settings change in harm and capability, item by item. Knows no judge and no suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from keel.calibrate.sweep.splitting import Halves
from keel.errors import TooFewSamplesError
from keel.types import Change, Floors, Interval, Item, SweepMeasure, Unit

Scores = Mapping[str, float]
"""One number per item, by its id."""
Scorer = Callable[[Floors | None, Sequence[Item]], Scores]
"""Scores of items by id under some floors, or unsteered; an item that was not judged is missing."""
CompareScores = Callable[[Sequence[Item], Scores, Scores], Interval]
"""Mean difference, with its 95 % interval, of items' scores before and after; all have both."""
OnProgress = Callable[[str, int, int], None]
"""Called with (stage, settings done, settings in all)."""
Half = Literal["choosing", "deciding"]


@dataclass(frozen=True)
class Metric:
    """One thing that is measured of every setting, and on which items."""

    name: str
    unit: Unit
    halves: Halves
    measure: Scorer

    def items(self, half: Half) -> tuple[Item, ...]:
        """The items of one half."""
        return self.halves.choosing if half == "choosing" else self.halves.deciding


class MetricCache:
    """One metric at work: what the unsteered model scored is asked once for all settings."""

    def __init__(self, metric: Metric, compare: CompareScores) -> None:
        self.metric, self._compare = metric, compare
        self._unsteered: dict[Half, Scores] = {}
        self._unjudged = 0

    def change(self, floors: Floors, half: Half) -> Interval:
        """Mean change under the floors, over items that were scored with and without them.

        Raises TooFewSamplesError where there is none.
        """
        before, after = self._before(half), self._scores(floors, half)
        items = [i for i in self.metric.items(half) if i.id in before and i.id in after]
        if not items:
            raise TooFewSamplesError(
                f"{self.metric.name}: no item was scored both with {floors.name} and without; "
                "look at the judge's verdicts"
            )
        return self._compare(items, before, after)

    def told(self) -> SweepMeasure:
        """What was measured so far, and on how much."""
        scores = [score for half in self._unsteered.values() for score in half.values()]
        return SweepMeasure(
            name=self.metric.name,
            unit=self.metric.unit,
            choosing_items=len(self.metric.halves.choosing),
            deciding_items=len(self.metric.halves.deciding),
            unsteered=sum(scores) / len(scores) if scores else float("nan"),
            unjudged=self._unjudged,
        )

    def _before(self, half: Half) -> Scores:
        if half not in self._unsteered:
            self._unsteered[half] = self._scores(None, half)
        return self._unsteered[half]

    def _scores(self, floors: Floors | None, half: Half) -> Scores:
        items = self.metric.items(half)
        scores = self.metric.measure(floors, items)
        self._unjudged += sum(item.id not in scores for item in items)
        return scores


def changes(
    settings: Sequence[Floors],
    harm: MetricCache,
    capability: MetricCache,
    half: Half,
    *,
    on_progress: OnProgress,
) -> dict[str, Change]:
    """What each setting changes on one half of the items, by the setting's name."""
    found = {}
    for number, floors in enumerate(settings, 1):
        found[floors.name] = Change(harm.change(floors, half), capability.change(floors, half))
        on_progress(f"measuring settings, {half} items", number, len(settings))
    return found
