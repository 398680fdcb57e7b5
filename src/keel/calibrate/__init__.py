"""Axis + projections -> floors, their firing rates and their price; sweeps over many settings."""

from keel.calibrate.calibrate import calibrate_floors
from keel.calibrate.floors import default_bands, floors_at_deviation, floors_at_percentile
from keel.calibrate.price import answer_clusters, price_settings
from keel.calibrate.projections import (
    Projections,
    choose_calibration,
    choose_rollouts,
    read_projections,
    spread_over_questions,
)
from keel.calibrate.screening import (
    GridPoint,
    grid_settings,
    is_inert_by_nominal,
    prune_settings,
    screen_settings,
)
from keel.calibrate.sweep import (
    CompareScores,
    Halves,
    Metric,
    Scorer,
    Scores,
    split_items,
    sweep_settings,
)
from keel.settings import Band, CalibrateSettings, ScreenLimits, SweepGrid

__all__ = [
    "Band",
    "CalibrateSettings",
    "CompareScores",
    "GridPoint",
    "Halves",
    "Metric",
    "Projections",
    "Scorer",
    "Scores",
    "ScreenLimits",
    "SweepGrid",
    "answer_clusters",
    "calibrate_floors",
    "choose_calibration",
    "choose_rollouts",
    "default_bands",
    "floors_at_deviation",
    "floors_at_percentile",
    "grid_settings",
    "is_inert_by_nominal",
    "price_settings",
    "prune_settings",
    "read_projections",
    "screen_settings",
    "split_items",
    "spread_over_questions",
    "sweep_settings",
]
