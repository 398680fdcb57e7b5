"""A sweep's choice: items are split in halves, one chooses a setting, the other confirms it.

The best of many is partly the luckiest, so what it scored while being chosen says too much of it.
The halves share no persona and no request: a setting that happens to suit one request would
otherwise look as lucky in both. Knows no judge and no suite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from keel.errors import TooFewSamplesError, UsageError
from keel.seeds import shuffle_key
from keel.statistics import Clusters, rate_interval
from keel.types import (
    Change,
    Floors,
    Interval,
    Item,
    ScreenedSetting,
    Sweep,
    SweepMeasure,
    SweptSetting,
    Unit,
)
from keel.words import MANY_CUT, percent

FEWEST_ITEMS = 8
"""Items that each half must have, or levels of one factor alone are kept apart."""
_FEWEST_LEVELS = 8
"""With fewer personas or requests an interval speaks of these only, not of others like them."""
_MOST_UNJUDGED = 0.02

Scores = Mapping[str, float]
"""Score of each item, by its id."""
Scorer = Callable[[Floors | None, Sequence[Item]], Scores]
"""Scores of items by id under some floors, or unsteered; an item that was not judged is missing."""
CompareScores = Callable[[Sequence[Item], Scores, Scores], Interval]
"""Mean difference, with its 95 % interval, of items' scores before and after; all have both."""
OnProgress = Callable[[str, int, int], None]
"""Called with (stage, settings done, settings in all)."""
Half = Literal["choosing", "deciding"]


# --- split ---


@dataclass(frozen=True)
class Halves:
    """Items by which to choose and items by which to decide."""

    choosing: tuple[Item, ...]
    deciding: tuple[Item, ...]
    shared: tuple[str, ...] = ()
    """Factors whose levels occur in both halves, for want of items."""

    def __post_init__(self) -> None:
        if not self.choosing or not self.deciding:
            count = len(self.choosing) + len(self.deciding)
            raise TooFewSamplesError(
                f"{count} items cannot be halved; give at least two that share nothing"
            )

    @property
    def items(self) -> tuple[Item, ...]:
        """Both halves."""
        return self.choosing + self.deciding


def split_items(items: Iterable[Item], *, limit: int | None = None, seed: int = 0) -> Halves:
    """Half of each factor's levels to choose by, the other half to decide by, drawn by the seed.

    Items that mix levels of both are left out; where too few would be left, only the factor with
    the most levels is split. `limit` bounds the items of both halves together.
    """
    if limit is not None and limit < 2:
        raise UsageError(f"limit is {limit} items, expected 2 or more: half choose, half decide")
    usable = [item for item in items if not item.is_baseline]
    levels = factor_levels(usable)
    names = sorted(levels, key=lambda name: (-len(levels[name]), name))
    halves = _halves(usable, names, seed)
    if names[1:] and min(map(len, halves)) < FEWEST_ITEMS:
        halves = _halves(usable, names[:1], seed)
    choosing, deciding = (_draw(half, limit, seed) for half in halves)
    shared = (
        name
        for name in names
        if {item.factors.get(name) for item in choosing}
        & {item.factors[name] for item in deciding if name in item.factors}
    )
    return Halves(choosing, deciding, tuple(sorted(shared)))


def factor_levels(items: Iterable[Item]) -> dict[str, list[str]]:
    """Levels of each factor in which items differ, each once."""
    levels: dict[str, dict[str, None]] = {}
    for item in items:
        for name, level in item.factors.items():
            levels.setdefault(name, {})[level] = None
    return {name: list(of_name) for name, of_name in levels.items() if len(of_name) > 1}


def _halves(
    items: Sequence[Item], names: Sequence[str], seed: int
) -> tuple[list[Item], list[Item]]:
    """Items whose levels all lie in the first half of their factors, and all in the second."""
    if not names:
        ordered = sorted(items, key=lambda item: shuffle_key(seed, item.id))
        return ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]
    levels, first = factor_levels(items), {}
    for name in names:
        shuffled = sorted(levels[name], key=lambda level: shuffle_key(seed, f"{name}={level}"))
        first[name] = set(shuffled[: len(shuffled) // 2])
    sides = [{item.factors.get(name) in first[name] for name in names} for item in items]
    pairs = list(zip(items, sides, strict=True))
    return [i for i, side in pairs if side == {True}], [i for i, side in pairs if side == {False}]


def _draw(items: Sequence[Item], limit: int | None, seed: int) -> tuple[Item, ...]:
    """Half as many items as the limit allows, drawn by the seed, in their own order."""
    count = len(items) if limit is None else limit // 2
    drawn = sorted(items, key=lambda item: shuffle_key(seed, item.id))[:count]
    ids = {item.id for item in drawn}
    return tuple(item for item in items if item.id in ids)


# --- measure ---


@dataclass(frozen=True)
class Metric:
    """Harm or capability: how items are scored under a setting, and which items."""

    name: str
    unit: Unit
    halves: Halves
    score: Scorer
    finishes: Counter[str] = field(default_factory=Counter)
    """How the answers ended that were scored so far (`stop`, `length`): filled by scoring."""

    def items(self, half: Half) -> tuple[Item, ...]:
        """The items of one half."""
        return self.halves.choosing if half == "choosing" else self.halves.deciding


class MetricCache:
    """Changes of one metric by setting; the unsteered model's scores are measured once for all."""

    def __init__(self, metric: Metric, compare: CompareScores) -> None:
        self.metric, self._compare = metric, compare
        self._unsteered: dict[Half, Scores] = {}
        self._steered: dict[tuple[str, Half], Scores] = {}
        self._unjudged = 0

    def change(self, floors: Floors, half: Half) -> Interval:
        """Mean change under the floors, over items that were scored with and without them.

        Raises TooFewSamplesError where there is none.
        """
        return self._compare(*self._paired(floors, half))

    def share_raised(self, floors: Floors, half: Half, *, sign: int = 1) -> Interval:
        """Share of those items whose score the floors raise, or lower with a `sign` of −1."""
        items, before, after = self._paired(floors, half)
        is_raised_N = np.array([sign * (after[i.id] - before[i.id]) > 0 for i in items])
        clusters = Clusters.of([item.factors for item in items])
        return rate_interval(is_raised_N.astype(np.float64), clusters)

    def _paired(self, floors: Floors, half: Half) -> tuple[list[Item], Scores, Scores]:
        """Items scored with and without the floors, the scores without, and those with them."""
        if half not in self._unsteered:
            self._unsteered[half] = self._scores(None, half)
        if (floors.name, half) not in self._steered:
            self._steered[floors.name, half] = self._scores(floors, half)
        before, after = self._unsteered[half], self._steered[floors.name, half]
        items = [i for i in self.metric.items(half) if i.id in before and i.id in after]
        if not items:
            raise TooFewSamplesError(
                f"{self.metric.name}: no item was scored both with {floors.name} and without; "
                "look at the judge's verdicts"
            )
        return items, before, after

    def summary(self) -> SweepMeasure:
        """The metric's name and unit, with how much was measured so far."""
        scores = [score for half in self._unsteered.values() for score in half.values()]
        finishes = self.metric.finishes
        return SweepMeasure(
            name=self.metric.name,
            unit=self.metric.unit,
            choosing_items=len(self.metric.halves.choosing),
            deciding_items=len(self.metric.halves.deciding),
            unsteered=sum(scores) / len(scores) if scores else float("nan"),
            unjudged=self._unjudged,
            cut_share=finishes["length"] / finishes.total() if finishes else None,
        )

    def _scores(self, floors: Floors | None, half: Half) -> Scores:
        items = self.metric.items(half)
        scores = self.metric.score(floors, items)
        self._unjudged += sum(item.id not in scores for item in items)
        return scores


# --- choose and confirm ---


def sweep_settings(
    settings: Sequence[Floors],
    screened: Sequence[ScreenedSetting],
    *,
    harm: Metric,
    capability: Metric,
    compare: CompareScores,
    tolerance: float,
    seed: int = 0,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> Sweep:
    """Harm and capability of each setting, their frontier, and the setting to recommend.

    Of harm lower is better, of capability higher. Frontier and recommendation are chosen on the
    choosing items: the greatest reduction of harm among settings whose capability's interval
    excludes a loss of more than the tolerance. Only these are measured on the deciding items.
    """
    if tolerance < 0:
        raise UsageError(f"tolerance is {tolerance:g}, expected 0 or a loss above it")
    harms, capabilities = MetricCache(harm, compare), MetricCache(capability, compare)

    def changes(of: Sequence[Floors], half: Half) -> dict[str, Change]:
        by_name = {}
        for number, floors in enumerate(of, 1):
            by_name[floors.name] = Change(
                harms.change(floors, half),
                capabilities.change(floors, half),
                more_harmful=harms.share_raised(floors, half),
                less_capable=None
                if capability.unit != "share"
                else capabilities.share_raised(floors, half, sign=-1),
            )
            on_progress(f"measuring settings, {half} items", number, len(of))
        return by_name

    chosen = changes(settings, "choosing")
    # Doing nothing is a setting, too: no change in either.
    points = [(change.harm.value, change.capability.value) for change in chosen.values()]
    frontier = {name for name, is_on in zip(chosen, pareto([*points, (0.0, 0.0)]), strict=False)
                if is_on}  # fmt: skip
    best = recommend(chosen, tolerance)
    decided = changes([f for f in settings if f.name in {*frontier, best}], "deciding")
    sweep = Sweep(
        screened=tuple(screened),
        swept=tuple(
            SweptSetting(name, change, name in frontier, decided.get(name))
            for name, change in chosen.items()
        ),
        harm=harms.summary(),
        capability=capabilities.summary(),
        tolerance=tolerance,
        recommended=best,
        seed=seed,
    )
    return replace(sweep, warnings=tuple(_warnings(sweep, harm, capability)))


def recommend(chosen: Mapping[str, Change], tolerance: float) -> str:
    """The setting that reduces harm most at a loss that is shown to be within the tolerance.

    Of those that reduce it alike, the most capable. Empty where none reduces harm so.
    """
    fit = {
        name: change
        for name, change in chosen.items()
        if change.harm.value < 0 and change.capability.low >= -tolerance
    }
    return min(
        fit, key=lambda name: (fit[name].harm.value, -fit[name].capability.value), default=""
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (cost, gain) whether no other point costs as little and gains as much.

    Of points that are the same all stay, for nothing tells them apart.
    """

    def beats(point: tuple[float, float], other: tuple[float, float]) -> bool:
        return point != other and point[0] <= other[0] and point[1] >= other[1]

    return [not any(beats(other, point) for other in points) for point in points]


def _warnings(sweep: Sweep, harm: Metric, capability: Metric) -> Iterator[str]:
    if sweep.swept and not sweep.recommended:
        helpful = [setting for setting in sweep.swept if setting.choosing.harm.value < 0]
        if helpful:
            yield (
                f"{len(helpful)} of {len(sweep.swept)} settings reduce harm, but of none does the "
                f"interval exclude a loss of capability above {sweep.tolerance:g} "
                f"({sweep.capability.unit}); none is recommended. Measure on more items, or accept "
                "a greater loss."
            )
        else:
            yield "No setting reduces harm on the choosing items; none is recommended."
    if sweep.recommended and not sweep.is_confirmed:
        yield (
            f"The items held back do not bear {sweep.recommended} out: by their intervals it may "
            "not reduce harm, or may cost more than the tolerance. Measure on more items."
        )
    # Scores: of all settings and none on the choosing half, of finalists and none on the other.
    finalists = sum(setting.deciding is not None for setting in sweep.swept)
    for metric, measured in ((harm, sweep.harm), (capability, sweep.capability)):
        deciding = (finalists + 1) * measured.deciding_items if finalists else 0
        scores = (len(sweep.swept) + 1) * measured.choosing_items + deciding
        yield from _metric_warnings(metric, measured, scores)


def _metric_warnings(metric: Metric, measured: SweepMeasure, scores: int) -> Iterator[str]:
    """What makes the numbers of one metric less sure than they look."""
    if measured.cut_share is not None and measured.cut_share > MANY_CUT:
        yield (
            f"{measured.name}: {percent(measured.cut_share)} of the answers are cut at the token "
            "limit, and scored as they begin; allow longer ones (--max-new-tokens)."
        )
    halves = metric.halves
    if halves.shared:
        yield (
            f"{metric.name}: for want of items both halves share {', '.join(halves.shared)}; "
            "the deciding half is not wholly fresh."
        )
    for half in (halves.choosing, halves.deciding):
        for factor, levels in sorted(factor_levels(half).items()):
            if len(levels) < _FEWEST_LEVELS:
                yield (
                    f"{metric.name}: a half has only {len(levels)} different {factor}s; its "
                    "intervals say little of others."
                )
    if measured.unjudged > _MOST_UNJUDGED * scores:
        yield (
            f"{metric.name}: {measured.unjudged} scores are missing, more than "
            f"{percent(_MOST_UNJUDGED)}; look at the judge's verdicts."
        )
