"""Which settings are worth measuring, told by cheap measures alone. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from keel.calibrate.sweep.grid import GridPoint
from keel.settings import ScreenLimits
from keel.types import Fate, Interval, ScreenedSetting, ScreenReading

_ERRORS = 2.0
"""Standard errors by which a difference must stand out."""


def is_inert_by_nominal(setting: GridPoint, limits: ScreenLimits) -> bool:
    """Whether unsteered projections alone tell that nothing would happen.

    Floors before it raise what a floor sees, so it mostly fires less often than nominally.
    """
    return setting.nominal_firing < limits.min_firing


def prune_settings(
    settings: Sequence[GridPoint],
    proxies: Mapping[str, ScreenReading],
    *,
    layers: int,
    limits: ScreenLimits = ScreenLimits(),
) -> tuple[ScreenedSetting, ...]:
    """The fate of every setting and why, in the order of the settings.

    Those without proxies are inert by their nominal firing.
    """
    screened = {s.name: _screened(s, proxies.get(s.name), limits) for s in settings}
    for name, why in _dominated(screened, proxies, limits, layers):
        screened[name] = replace(screened[name], fate="dominated", why=why)
    kept = [one for one in screened.values() if one.fate == "kept"]
    for one in _crowd(kept, limits.max_settings, layers):
        why = f"more than {limits.max_settings} are left; this one lies near one that is measured"
        screened[one.name] = replace(one, fate="crowded out", why=why)
    return tuple(screened[setting.name] for setting in settings)


def _screened(
    setting: GridPoint, proxies: ScreenReading | None, limits: ScreenLimits
) -> ScreenedSetting:
    """By its own measures alone: inert, too dear, or kept so far."""
    price = effect = firing = None
    if proxies is not None:
        price, effect = _mean(proxies.kls), _mean(proxies.rises)
        firing = proxies.realised_firing
    fate, why = _own_fate(setting.nominal_firing, firing, price, effect, limits)
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


def _own_fate(
    nominal: float,
    firing: float | None,
    price: Interval | None,
    effect: Interval | None,
    limits: ScreenLimits,
) -> tuple[Fate, str]:
    if firing is None or price is None or effect is None:
        return "inert", f"{nominal:.1%} of tokens lie under its floors; it was not tried"
    if firing < limits.min_firing:
        return "inert", f"moves {firing:.1%} of slots, under {limits.min_firing:.0%}"
    if effect.low <= 0:
        told = f"{effect.value:+.2f} gaps, at least {effect.low:+.2f}"
        return "inert", f"does not clearly raise answers in a role ({told})"
    if price.low > limits.max_price:
        return "too dear", f"costs {price.value:.3f} nats per token, over {limits.max_price:g}"
    return "kept", ""


def _dominated(
    screened: Mapping[str, ScreenedSetting],
    proxies: Mapping[str, ScreenReading],
    limits: ScreenLimits,
    layers: int,
) -> Iterator[tuple[str, str]]:
    """(name, why) of settings than which a neighbour that stays is clearly cheaper and stronger."""
    stay: list[ScreenedSetting] = []
    # Cheapest first: whatever dominates a setting was judged before it.
    for one in sorted((s for s in screened.values() if s.fate == "kept"), key=_price):
        near = [
            o for o in stay if abs(_centre(o) - _centre(one)) <= limits.neighbour_depth * layers
        ]
        better = [
            o.name
            for o in near
            if _beats(proxies[o.name], proxies[one.name], limits.dominance_margin)
        ]
        if better:
            yield one.name, f"{better[0]} is clearly cheaper and stronger"
        else:
            stay.append(one)


def _beats(one: ScreenReading, other: ScreenReading, margin: float) -> bool:
    """Whether the first is clearly cheaper and stronger, answer by answer."""
    saved = _mean([b - a for a, b in zip(one.kls, other.kls, strict=True)])
    gained = _mean([a - b for a, b in zip(one.rises, other.rises, strict=True)])
    is_cheaper = saved.low > 0 and saved.value >= margin * _mean(other.kls).value
    is_stronger = gained.low > 0 and gained.value >= margin * _mean(other.rises).value
    return is_cheaper and is_stronger


def _crowd(kept: Sequence[ScreenedSetting], most: int, layers: int) -> Sequence[ScreenedSetting]:
    """Those in excess, once as many as may be stay that lie far apart in depth and price.

    The strongest stays first; then, again and again, the one farthest from all that stay.
    """
    left = list(kept)
    stay: list[tuple[float, float]] = []
    places = {one.name: _place(one, layers) for one in kept}
    while left and len(stay) < most:
        chosen = max(left, key=lambda one: (_distance(places[one.name], stay), _effect(one)))
        stay.append(places[chosen.name])
        left.remove(chosen)
    return left


def _place(one: ScreenedSetting, layers: int) -> tuple[float, float]:
    """Depth as a share, and price in powers of a hundred: both from about 0 to 1."""
    return _centre(one) / layers, math.log(max(_price(one), 1e-4), 100)


def _distance(place: tuple[float, float], others: Sequence[tuple[float, float]]) -> float:
    return min((math.dist(place, other) for other in others), default=math.inf)


def _effect(one: ScreenedSetting) -> float:
    return one.effect.value if one.effect is not None else 0.0


def _price(one: ScreenedSetting) -> float:
    return one.price.value if one.price is not None else 0.0


def _centre(one: ScreenedSetting) -> float:
    return (one.start + one.stop) / 2


def _mean(values: Sequence[float]) -> Interval:
    """The mean, give or take two standard errors."""
    mean = math.fsum(values) / len(values)
    spread = math.fsum((value - mean) ** 2 for value in values)
    error = math.sqrt(spread / max(1, len(values) - 1) / len(values))
    return Interval(mean, mean - _ERRORS * error, mean + _ERRORS * error)
