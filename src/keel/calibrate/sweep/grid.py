"""The settings that a sweep tries: windows over the whole depth × heights of the floor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from keel.calibrate.distributions import Projections
from keel.calibrate.floors import floors_at_deviation, floors_at_percentile
from keel.calibrate.price import Candidate
from keel.settings import Band, SweepGrid
from keel.types import AssistantAxis, Floors


@dataclass(frozen=True)
class GridPoint:
    """One setting of the grid."""

    candidate: Candidate
    band: Band
    nominal_firing: float = field(default=0.0)
    """Share (0 to 1) of the calibration's (token, layer) slots under its floors."""

    @property
    def name(self) -> str:
        """`layers_21:26-p75`."""
        return self.candidate.floors.name


def grid_settings(
    grid: SweepGrid,
    projections: Projections,
    axis: AssistantAxis,
    known: Mapping[str, Floors] | None = None,
) -> list[GridPoint]:
    """Every setting of the grid, with its nominal firing; nothing is asked of a model.

    `known` are floors by name that the run has already: a name means one thing in a run, so they
    are taken as they are.
    """
    layers = len(axis.direction)
    there = known or {}
    made = [
        (band, _known(candidate, there))
        for band in grid.bands(layers)
        for candidate in _candidates(grid, projections, axis, band)
    ]
    return [GridPoint(one, band, _nominal(projections, one.floors)) for band, one in made]


def _candidates(
    grid: SweepGrid, projections: Projections, axis: AssistantAxis, band: Band
) -> Iterator[Candidate]:
    for percentile in grid.percentiles:
        floors = floors_at_percentile(projections, axis, band, percentile)
        yield Candidate(floors, percentile)
    for deviations in grid.deviations:
        yield Candidate(floors_at_deviation(projections, axis, band, deviations), None)


def _known(candidate: Candidate, known: Mapping[str, Floors]) -> Candidate:
    floors = known.get(candidate.floors.name, candidate.floors)
    return Candidate(floors, candidate.percentile)


def _nominal(projections: Projections, floors: Floors) -> float:
    shares = [projections.share_under(floor.layer, floor.value) for floor in floors]
    return sum(shares) / len(shares)
