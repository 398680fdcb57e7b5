"""The grid covers the whole depth, and names mean one thing in a run."""

import pytest
import torch

from keel.calibrate import Band, SweepGrid, grid_settings
from keel.calibrate.projections import Projections
from keel.errors import UsageError
from keel.testing import FakeEngine
from keel.types import Floor, Floors


def projections(layers: int) -> Projections:
    """Tokens at 0, 1, ... 100 at every layer, half of them the default's."""
    values_NL = torch.arange(101.0)[:, None].expand(101, layers).contiguous()
    return Projections(values_NL[50:], values_NL[:50], values_NL[50:], values_NL[:50])


def test_default_windows_are_a_sixteenth_an_eighth_and_a_quarter_of_the_depth():
    bands = SweepGrid().bands(32)
    assert {band.stop - band.start for band in bands} == {2, 4, 8}
    # One centre every 2 layers from 1 to 31. Width 2 fits around all 16 of them, width 4 around
    # 3 … 29 (14), width 8 around 5 … 27 (12).
    assert len(bands) == 16 + 14 + 12


@pytest.mark.parametrize("layers", [4, 16, 30, 32, 80])
def test_windows_reach_from_the_first_layer_to_the_last(layers):
    covered = {layer for band in SweepGrid().bands(layers) for layer in band.layers}
    assert covered == set(range(layers))


def test_a_window_lies_around_its_centre():
    grid = SweepGrid(widths=(3, 4), centres=(10,))
    # 9, 10, 11; and of an even number the one layer more lies before the centre: 8, 9, 10, 11.
    assert grid.bands(20) == (Band(9, 12), Band(8, 12))


def test_windows_that_reach_past_the_model_are_left_out():
    assert SweepGrid(widths=(4,), step=4).bands(10) == (Band(0, 4), Band(4, 8))


def test_where_no_window_fits_that_is_summary():
    with pytest.raises(UsageError, match="no window of 12 layers around 4, 5 fits into 10 layers"):
        SweepGrid(widths=(12,), centres=(4, 5)).bands(10)


def test_every_window_is_tried_at_every_height():
    engine = FakeEngine(layers=8)
    grid = SweepGrid(widths=(2,), centres=(2, 6), percentiles=(25.0, 75.0), deviations=(1.0,))
    settings = grid_settings(grid, projections(8), engine.axis)
    assert [one.name for one in settings] == [
        "layers_1:3-p25",
        "layers_1:3-p75",
        "layers_1:3-k1",
        "layers_5:7-p25",
        "layers_5:7-p75",
        "layers_5:7-k1",
    ]
    assert grid.size(8) == 6


def test_nominal_firing_is_the_share_of_stored_tokens_under_the_floor():
    grid = SweepGrid(widths=(2,), centres=(2,), percentiles=(25.0, 90.0))
    low, high = grid_settings(grid, projections(8), FakeEngine(layers=8).axis)
    # Of 0, 1, … 100 the 25th percentile is 25: 25 of 101 tokens lie below it; 90 below the 90th.
    assert low.nominal_firing == pytest.approx(25 / 101)
    assert high.nominal_firing == pytest.approx(90 / 101)


def test_nominal_firing_is_the_mean_over_a_windows_layers():
    """Floors of the run's own at 20 and 61: 20 of 101 tokens under the one, 61 under the other."""
    axis = FakeEngine(layers=8).axis
    pair = (Floor(1, axis.direction[1], 20.0), Floor(2, axis.direction[2], 61.0))
    grid = SweepGrid(widths=(2,), centres=(2,), percentiles=(25.0,))
    known = {"layers_1:3-p25": Floors(pair, "layers_1:3-p25")}
    (found,) = grid_settings(grid, projections(8), axis, known)
    assert found.nominal_firing == pytest.approx(81 / 202)


def test_a_name_that_the_run_has_keeps_its_floors():
    """Else one name would mean two floors, before and after the sweep."""
    axis = FakeEngine(layers=8).axis
    known = Floors((Floor(2, axis.direction[2], 33.0),), "layers_1:3-p25")
    grid = SweepGrid(widths=(2,), centres=(2,), percentiles=(25.0, 75.0))
    first, second = grid_settings(grid, projections(8), axis, {known.name: known})
    assert first.floors is known
    assert first.nominal_firing == pytest.approx(33 / 101)
    assert second.floors.floors[0].value == pytest.approx(75.0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"centres": (3,), "step": 2}, "both centres and a step"),
        ({"step": 0}, "step is 0 layers"),
        ({"widths": (0,)}, "1 layer or more"),
        ({"percentiles": (100.0,)}, "under 100"),
        ({"percentiles": ()}, "nothing to try"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(bad, message):
    with pytest.raises(UsageError, match=message):
        SweepGrid(**bad)


def test_a_sweeps_floors_hold_the_tokens_that_the_runs_own_hold():
    grid = SweepGrid(widths=(1,), centres=(1,), percentiles=(50.0,))
    axis = FakeEngine(layers=3).axis
    (point,) = grid_settings(grid, projections(3), axis, tokens="not_first")
    assert {floor.tokens for floor in point.floors} == {"not_first"}
