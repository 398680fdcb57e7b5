"""Floors to try: bands of layers × heights taken from the distribution of projections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from keel.calibrate.projections import Projections
from keel.settings import Band
from keel.types import AssistantAxis, Floor, Floors, TokenMask

_WIDTH = 0.16
"""Share of the layers in a band; the paper's two settings have 12.5 % and 20 %."""
_CENTRES = (0.5, 0.65, 0.78)
"""Depths tried: the paper's bands are centred at 0.78 and 0.80; small models react earlier."""


@dataclass(frozen=True)
class Candidate:
    """Floors to be priced."""

    floors: Floors
    percentile: float | None
    """Assistant-ward percentile of the floors; None where they are at deviations."""


def default_bands(layers: int) -> tuple[Band, ...]:
    """Middle-to-late bands of about 16 % of the layers, none twice."""
    width = max(1, round(_WIDTH * layers))
    starts = [round(centre * layers - width / 2) for centre in _CENTRES]
    return tuple(dict.fromkeys(Band(start, start + width) for start in starts))


def candidate_floors(
    projections: Projections,
    axis: AssistantAxis,
    bands: Iterable[Band],
    *,
    percentiles: Iterable[float] = (),
    deviations: Iterable[float] = (),
) -> Iterator[Candidate]:
    """Every band at every percentile, then at every number of standard deviations."""
    for band in bands:
        for p in percentiles:
            yield Candidate(floors_at_percentile(projections, axis, band, p), p)
        for k in deviations:
            yield Candidate(floors_at_deviation(projections, axis, band, k), None)


def floors_at_percentile(
    projections: Projections, axis: AssistantAxis, band: Band, percentile: float
) -> Floors:
    """Floors at an assistant-ward percentile of pooled per-token projections (paper: the 75th).

    The published `p0.25` counts role-ward: it is the 75th percentile here.
    """
    values = {layer: projections.percentile(layer, percentile) for layer in band.layers}
    pool = "" if projections.pool_NL is None else ", of roles, traits and default as they fall"
    source = f"{percentile:g}th assistant-ward percentile of per-token projections{pool}"
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


def holding(floors: Floors, tokens: TokenMask) -> Floors:
    """The floors on those tokens alone."""
    if tokens == "all":
        return floors
    held = tuple(replace(floor, tokens=tokens) for floor in floors)
    return replace(floors, floors=held, provenance={**floors.provenance, "tokens": tokens})


def _floors(axis: AssistantAxis, values: dict[int, float], name: str, source: str) -> Floors:
    floors = tuple(Floor(layer, axis.direction[layer], v) for layer, v in values.items())
    return Floors(floors, name, axis.identity, {"threshold": source})
