"""Floors from distributions: at a percentile, or at a distance below the default's mean."""

from __future__ import annotations

from keel.calibrate.distributions import Projections
from keel.settings import Band
from keel.types import AssistantAxis, Floor, Floors


def floors_at_percentile(
    projections: Projections, axis: AssistantAxis, band: Band, percentile: float
) -> Floors:
    """Floors at an assistant-ward percentile of pooled per-token projections (paper: the 75th).

    The published `p0.25` counts role-ward: it is the 75th percentile here.
    """
    values = {layer: projections.percentile(layer, percentile) for layer in band.layers}
    source = f"{percentile:g}th assistant-ward percentile of per-token projections"
    return _floors(axis, values, f"{band.name}-p{percentile:g}", source)


def floors_at_deviation(
    projections: Projections, axis: AssistantAxis, band: Band, deviations: float
) -> Floors:
    """Floors at the default's mean minus so many standard deviations, per token.

    Unlike a percentile of the pool, this does not depend on the mix of roles.
    """
    values = {}
    for layer in band.layers:
        default_N = projections.default_NL[:, layer]
        values[layer] = float(default_N.mean() - deviations * default_N.std())
    source = f"default mean − {deviations:g} standard deviations, per token"
    return _floors(axis, values, f"{band.name}-k{deviations:g}", source)


def _floors(axis: AssistantAxis, values: dict[int, float], name: str, source: str) -> Floors:
    floors = tuple(Floor(layer, axis.direction[layer], v) for layer, v in values.items())
    return Floors(floors, name, axis.identity, {"threshold": source})
