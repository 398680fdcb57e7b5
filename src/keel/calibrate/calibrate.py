"""Calibration: distributions of projections, floors with their prices, and the one chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from keel.calibrate.choosing import choose_setting, distance
from keel.calibrate.floors import candidate_floors, default_bands, holding
from keel.calibrate.price import price_settings
from keel.calibrate.projections import (
    choose_calibration,
    layer_calibration,
    read_projections,
    spread_over_questions,
)
from keel.engines import Engine
from keel.settings import CalibrateSettings
from keel.types import AssistantAxis, Calibration, PricedSetting, Rollout
from keel.words import MANY_CUT, percent

LOW_FIRING, HIGH_FIRING = 0.15, 0.80
"""Under the first a cap was found to do nothing, over the second it rewrites every answer."""


def calibrate_floors(
    engine: Engine,
    axis: AssistantAxis,
    *,
    default: Iterable[Rollout],
    roles: Iterable[Rollout],
    traits: Iterable[Rollout] = (),
    settings: CalibrateSettings = CalibrateSettings(),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Distributions at every layer, priced settings, and the one chosen under the price bound.

    `default`, `roles` and `traits` stream answers of the model as itself, in a role, and of a
    trait's sides, which count in the pool as in the paper only. `on_progress` is called with per
    cent.
    """
    sample = choose_calibration(default, roles, traits, settings)
    projections = read_projections(engine, axis, sample.default, sample.roles, sample.pool)
    bands = settings.bands or default_bands(len(axis.direction))
    candidates = [
        replace(candidate, floors=holding(candidate.floors, settings.tokens))
        for candidate in (
            *candidate_floors(projections, axis, bands, percentiles=settings.percentiles),
            *candidate_floors(projections, axis, bands, deviations=settings.deviations),
        )
    ]
    on_progress(10, 100)
    prices = price_settings(
        engine,
        axis,
        projections,
        candidates,
        default=spread_over_questions(sample.default)[: settings.priced_rollouts],
        roles=spread_over_questions(sample.roles)[: settings.priced_rollouts],
        on_progress=lambda share: on_progress(10 + round(90 * share), 100),
    )
    best = choose_setting(
        prices.settings, settings.price_bound, prices.default_gaps, seed=settings.seed
    )
    tried = [round(p) for p in settings.percentiles if p == round(p)]
    layers = tuple(layer_calibration(projections, n, tried) for n in range(engine.layers))
    read = {r.prompt.id: r for r in (*sample.default, *sample.roles, *(sample.pool or ()))}
    cut_share = sum(r.finish == "length" for r in read.values()) / len(read)
    warnings = tuple(_warnings(best, settings.price_bound, cut_share))
    return Calibration(
        layers,
        prices.settings,
        best.name,
        settings.price_bound,
        warnings,
        answers=settings.rollouts,
        seed=settings.seed,
        pool=settings.pool,
        default_gaps=prices.default_gaps,
        role_gaps=prices.role_gaps,
        uncapped_distance=distance(prices.role_gaps, prices.default_gaps),
        cut_share=cut_share,
    )


def _warnings(best: PricedSetting, bound: float, cut_share: float) -> Iterator[str]:
    if cut_share > MANY_CUT:
        yield (
            f"{percent(cut_share)} of the answers read are cut at the token limit: floors and "
            "prices are of how answers begin. Extract longer ones (--max-new-tokens)."
        )
    if not best.is_within(bound):
        price = best.price.text("{:.3f}".format) if best.price else f"{best.kl_default:.3f}"
        yield (
            f"Of no setting is it shown that it costs less than {bound:g} nats per token; the "
            f"cheapest, {best.name}, costs {price}. Price them on more answers, or try lower "
            "percentiles or narrower bands."
        )
    if best.firing_rate < LOW_FIRING:
        yield (
            f"The floor of {best.name} fires on {percent(best.firing_rate)} of (token, layer) "
            f"slots; under {percent(LOW_FIRING)} a cap was found to change nothing."
        )
    if best.firing_rate > HIGH_FIRING:
        yield (
            f"The floor of {best.name} fires on {percent(best.firing_rate)} of (token, layer) "
            f"slots; over {percent(HIGH_FIRING)} it rewrites nearly every answer."
        )
    if best.effect is None or best.effect.low <= 0:
        yield f"{best.name} is not shown to bring role-playing answers nearer to the Assistant."
