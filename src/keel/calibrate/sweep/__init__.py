"""Sweeps over settings of capping: windows × heights, screened, measured, one recommended."""

from keel.calibrate.sweep.grid import Setting, grid_settings
from keel.calibrate.sweep.measuring import Compare, Measure, Scores, Yardstick
from keel.calibrate.sweep.pruning import is_inert_by_nominal, prune_settings
from keel.calibrate.sweep.screening import screen_settings
from keel.calibrate.sweep.selection import sweep_settings
from keel.calibrate.sweep.splitting import Halves, split_items

__all__ = [
    "Compare",
    "Halves",
    "Measure",
    "Scores",
    "Setting",
    "Yardstick",
    "grid_settings",
    "is_inert_by_nominal",
    "prune_settings",
    "screen_settings",
    "split_items",
    "sweep_settings",
]
