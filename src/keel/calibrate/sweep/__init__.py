"""Sweeps over settings of capping: windows × heights, screened, measured, one recommended."""

from keel.calibrate.sweep.grid import GridPoint, grid_settings
from keel.calibrate.sweep.measuring import CompareScores, Metric, Scorer, Scores
from keel.calibrate.sweep.pruning import is_inert_by_nominal, prune_settings
from keel.calibrate.sweep.screening import screen_settings
from keel.calibrate.sweep.selection import sweep_settings
from keel.calibrate.sweep.splitting import Halves, split_items

__all__ = [
    "CompareScores",
    "GridPoint",
    "Halves",
    "Metric",
    "Scorer",
    "Scores",
    "grid_settings",
    "is_inert_by_nominal",
    "prune_settings",
    "screen_settings",
    "split_items",
    "sweep_settings",
]
