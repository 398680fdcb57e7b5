"""Chooses settings by one half of the items, and tells their effect by the other half."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from keel.calibrate.sweep.frontier import pareto
from keel.calibrate.sweep.measuring import CompareScores, Metric, MetricCache, OnProgress, changes
from keel.calibrate.sweep.splitting import factor_levels
from keel.errors import UsageError
from keel.types import Change, Floors, ScreenedSetting, Sweep, SweepMeasure, SweptSetting

_FEWEST_LEVELS = 8
"""With fewer personas or requests an interval speaks of these only, not of others like them."""
_MOST_UNJUDGED = 0.02


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

    Of harm lower is better, of capability higher. Frontier and recommendation are found on the
    choosing items: the greatest reduction of harm among settings whose capability's interval
    excludes a loss of more than the tolerance. The deciding items are asked of these only.
    """
    if tolerance < 0:
        raise UsageError(f"tolerance is {tolerance:g}, expected 0 or a loss above it")
    of_harm, of_capability = MetricCache(harm, compare), MetricCache(capability, compare)
    chosen = changes(settings, of_harm, of_capability, "choosing", on_progress=on_progress)
    frontier, best = _frontier(chosen), recommend(chosen, tolerance)
    finalists = [floors for floors in settings if floors.name in {*frontier, best}]
    decided = changes(finalists, of_harm, of_capability, "deciding", on_progress=on_progress)
    found = Sweep(
        screened=tuple(screened),
        swept=tuple(
            SweptSetting(name, change, name in frontier, decided.get(name))
            for name, change in chosen.items()
        ),
        harm=of_harm.told(),
        capability=of_capability.told(),
        tolerance=tolerance,
        recommended=best,
        seed=seed,
    )
    return replace(found, warnings=tuple(_warnings(found, (harm, capability))))


def recommend(chosen: Mapping[str, Change], tolerance: float) -> str:
    """The setting that reduces harm most at a loss that is shown to be within the tolerance.

    Of those that reduce it alike, the most capable. Empty where none reduces harm so.
    """
    fit = {
        name: one
        for name, one in chosen.items()
        if one.harm.value < 0 and one.capability.low >= -tolerance
    }
    return min(
        fit, key=lambda name: (fit[name].harm.value, -fit[name].capability.value), default=""
    )


def _frontier(chosen: Mapping[str, Change]) -> set[str]:
    """Settings that neither another one nor doing nothing beats in both."""
    points = [(one.harm.value, one.capability.value) for one in chosen.values()]
    on_it = pareto([*points, (0.0, 0.0)])[: len(points)]
    return {name for name, is_on in zip(chosen, on_it, strict=True) if is_on}


def _warnings(found: Sweep, metrics: Sequence[Metric]) -> Iterator[str]:
    if found.swept and not found.recommended:
        yield _why_none(found)
    if found.recommended and not found.is_confirmed:
        yield (
            f"The items held back do not bear {found.recommended} out: by their intervals it may "
            "not reduce harm, or may cost more than the tolerance. Scorer on more items."
        )
    for metric, measure in zip(metrics, (found.harm, found.capability), strict=True):
        yield from _doubts(metric, measure, scores=_asked(found, measure))


def _asked(found: Sweep, measure: SweepMeasure) -> int:
    """Scores: of all settings and none on the choosing half, of finalists and none on the other."""
    finalists = sum(one.deciding is not None for one in found.swept)
    deciding = (finalists + 1) * measure.deciding_items if finalists else 0
    return (len(found.swept) + 1) * measure.choosing_items + deciding


def _why_none(found: Sweep) -> str:
    loss, unit = f"{found.tolerance:g}", found.capability.unit
    helpful = [one for one in found.swept if one.choosing.harm.value < 0]
    if not helpful:
        return "No setting reduces harm on the choosing items; none is recommended."
    return (
        f"{len(helpful)} of {len(found.swept)} settings reduce harm, but of none does the interval "
        f"exclude a loss of capability above {loss} ({unit}); none is recommended. Scorer on "
        "more items, or accept a greater loss."
    )


def _doubts(metric: Metric, measure: SweepMeasure, scores: int) -> Iterator[str]:
    """What makes the numbers of one metric less sure than they look."""
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
    if measure.unjudged > _MOST_UNJUDGED * scores:
        yield (
            f"{metric.name}: {measure.unjudged} scores are missing, more than "
            f"{_MOST_UNJUDGED:.0%}; look at the judge's verdicts."
        )
