"""Screening of a sweep: the grid of settings, cheap measures of each, and which are worth more.

No judge is asked: price and effect come from a few answers that are there already.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from keel.calibrate.floors import candidate_floors, holding
from keel.calibrate.price import divergences, read_last_layer
from keel.calibrate.projections import Projections
from keel.engines import Engine
from keel.errors import TooFewSamplesError
from keel.settings import Band, ScreenLimits, SweepGrid
from keel.statistics import Clusters, mean_interval, positive_mean_interval
from keel.types import (
    AssistantAxis,
    Fate,
    Floors,
    Interval,
    Rollout,
    ScreenedSetting,
    ScreenReading,
    TokenMask,
)
from keel.words import percent, signed, tenths

FEWEST_ANSWERS = 3
"""Of each kind: with fewer there is no telling an effect from noise."""
_TOGETHER = 8
"""Settings whose price is measured in one call: they share the unsteered model's logits."""


# --- the grid: windows over the whole depth × heights of the floor ---


@dataclass(frozen=True)
class GridPoint:
    """One setting of the grid."""

    floors: Floors
    band: Band
    nominal_firing: float = 0.0
    """Share (0 to 1) of the calibration's (token, layer) slots under its floors."""

    @property
    def name(self) -> str:
        """`layers_21:26-p75`."""
        return self.floors.name


def grid_settings(
    grid: SweepGrid,
    projections: Projections,
    axis: AssistantAxis,
    known: Mapping[str, Floors] | None = None,
    *,
    tokens: TokenMask = "all",
) -> list[GridPoint]:
    """Every setting of the grid, on these tokens, with its nominal firing; no model runs.

    `known` are floors by name that the run has already: a name means the same floors throughout a
    run, so they are taken as they are.
    """
    points = []
    for band in grid.bands(len(axis.direction)):
        for candidate in candidate_floors(
            projections, axis, [band], percentiles=grid.percentiles, deviations=grid.deviations
        ):
            floors = (known or {}).get(candidate.floors.name, holding(candidate.floors, tokens))
            shares = [projections.share_under(floor.layer, floor.value) for floor in floors]
            points.append(GridPoint(floors, band, sum(shares) / len(shares)))
    return points


# --- cheap measures ---


def screen_settings(
    engine: Engine,
    axis: AssistantAxis,
    settings: Sequence[Floors],
    *,
    default: Sequence[Rollout],
    roles: Sequence[Rollout],
) -> Iterator[ScreenReading]:
    """Firing, price and effect of each setting, a few settings at a time, in their order.

    Price is the KL from the unsteered model on its own default answers; effect is the rise of
    role-playing answers at the last layer, in gap units. Raises TooFewSamplesError where there
    are too few answers to tell them from noise.
    """
    if min(len(default), len(roles)) < FEWEST_ANSWERS:
        raise TooFewSamplesError(
            f"screening has {len(default)} default and {len(roles)} role answers, expected "
            f"{FEWEST_ANSWERS} of each or more; extract with more questions"
        )
    if not settings:
        return
    conversations = [rollout.conversation for rollout in (*default, *roles)]
    before, _ = read_last_layer(engine, axis, conversations, ())
    for start in range(0, len(settings), _TOGETHER):
        chunk = settings[start : start + _TOGETHER]
        kls = divergences(
            engine, conversations[: len(default)], [list(f) for f in chunk], lambda share: None
        )
        for floors, kl_N in zip(chunk, kls, strict=True):
            after, firing = read_last_layer(engine, axis, conversations, tuple(floors))
            pairs = list(zip(after, before, strict=True))[len(default) :]
            yield ScreenReading(
                name=floors.name,
                realised_firing=sum(firing.values()) / len(firing),
                kls=tuple(kl_N),
                rises=tuple(high - low for high, low in pairs),
            )


# --- pruning: by cheap measures alone ---


@dataclass(frozen=True)
class _Means:
    """Means over the answers that settings were screened on, with their 95 % intervals."""

    default: Clusters | None
    roles: Clusters | None

    def price(self, kls: Sequence[float]) -> Interval:
        return positive_mean_interval(np.array(kls), self.default or Clusters({}, {}, len(kls)))

    def saving(self, kls: Sequence[float]) -> Interval:
        """Of differences of prices, which go either way."""
        return mean_interval(np.array(kls), self.default or Clusters({}, {}, len(kls)))

    def rise(self, rises: Sequence[float]) -> Interval:
        return mean_interval(np.array(rises), self.roles or Clusters({}, {}, len(rises)))


def is_inert_by_nominal(setting: GridPoint, limits: ScreenLimits) -> bool:
    """Whether unsteered projections alone show that the floors would move almost nothing.

    Floors before it raise what a floor sees, so it mostly fires less often than nominally.
    """
    return setting.nominal_firing < limits.min_firing


def prune_settings(
    settings: Sequence[GridPoint],
    readings: Mapping[str, ScreenReading],
    *,
    layers: int,
    limits: ScreenLimits = ScreenLimits(),
    default: Clusters | None = None,
    roles: Clusters | None = None,
) -> tuple[ScreenedSetting, ...]:
    """The fate of every setting and why, in the order of the settings.

    Those without a reading are inert by their nominal firing. `default` and `roles` say which of
    the answers that were read belong together; else all are taken as independent.
    """
    means = _Means(default, roles)
    screened = {s.name: _screened(s, readings.get(s.name), limits, means) for s in settings}
    kept = [setting for setting in screened.values() if setting.fate == "kept"]
    stay: list[ScreenedSetting] = []
    # Cheapest first: whatever dominates a setting was judged before it.
    for setting in sorted(kept, key=_price):
        near = (
            other
            for other in stay
            if abs(_centre(other) - _centre(setting)) <= limits.neighbour_depth * layers
        )
        mine = readings[setting.name]
        better = next((o for o in near if _dominates(readings[o.name], mine, limits, means)), None)
        if better is None:
            stay.append(setting)
        else:
            why = f"{better.name} is clearly cheaper and stronger"
            screened[setting.name] = replace(setting, fate="dominated", why=why)
    kept = [setting for setting in screened.values() if setting.fate == "kept"]
    for setting in _in_excess(kept, limits.max_settings, layers):
        why = f"more than {limits.max_settings} are left; this one lies near one that is measured"
        screened[setting.name] = replace(setting, fate="crowded out", why=why)
    return tuple(screened[setting.name] for setting in settings)


def _screened(
    setting: GridPoint, reading: ScreenReading | None, limits: ScreenLimits, means: _Means
) -> ScreenedSetting:
    """The setting by its own measures alone: inert, too dear, or kept so far."""
    price = effect = firing = None
    fate: Fate = "kept"
    why = ""
    if reading is None:
        fate = "inert"
        why = f"{tenths(setting.nominal_firing)} of tokens lie under its floors; it was not tried"
    else:
        price, effect = means.price(reading.kls), means.rise(reading.rises)
        firing = reading.realised_firing
        if firing < limits.min_firing:
            fate, why = (
                "inert",
                f"moves {tenths(firing)} of slots, under {percent(limits.min_firing)}",
            )
        elif effect.low <= 0:
            rise = f"{signed(effect.value)} gaps, at least {signed(effect.low)}"
            fate, why = "inert", f"does not clearly raise answers in a role ({rise})"
        elif price.low > limits.max_price:
            fate = "too dear"
            why = f"costs {price.value:.3f} nats per token, over {limits.max_price:g}"
    return ScreenedSetting(
        name=setting.name,
        start=setting.band.start,
        stop=setting.band.stop,
        nominal_firing=setting.nominal_firing,
        realised_firing=firing,
        price=price,
        effect=effect,
        fate=fate,
        why=why,
    )


def _dominates(
    better: ScreenReading, worse: ScreenReading, limits: ScreenLimits, means: _Means
) -> bool:
    """Whether the first is clearly cheaper and stronger, answer by answer."""
    saved = means.saving([w - b for b, w in zip(better.kls, worse.kls, strict=True)])
    gained = means.rise([b - w for b, w in zip(better.rises, worse.rises, strict=True)])
    margin = limits.dominance_margin
    is_cheaper = saved.low > 0 and saved.value >= margin * fmean(worse.kls)
    is_stronger = gained.low > 0 and gained.value >= margin * fmean(worse.rises)
    return is_cheaper and is_stronger


def _in_excess(kept: Sequence[ScreenedSetting], most: int, layers: int) -> list[ScreenedSetting]:
    """Those left over once as many as may be stay that lie far apart in depth and price.

    The strongest stays first; then, again and again, the setting farthest from all that stay.
    """
    # Depth as a share, and price in powers of a hundred: both from about 0 to 1.
    points = {s.name: (_centre(s) / layers, math.log(max(_price(s), 1e-4), 100)) for s in kept}
    stay: list[tuple[float, float]] = []

    def rank(setting: ScreenedSetting) -> tuple[float, float]:
        distances = (math.dist(points[setting.name], other) for other in stay)
        effect = setting.effect.value if setting.effect is not None else 0.0
        return min(distances, default=math.inf), effect

    left = list(kept)
    while left and len(stay) < most:
        chosen = max(left, key=rank)
        stay.append(points[chosen.name])
        left.remove(chosen)
    return left


def _price(setting: ScreenedSetting) -> float:
    return setting.price.value if setting.price is not None else 0.0


def _centre(setting: ScreenedSetting) -> float:
    return (setting.start + setting.stop) / 2
