"""Axis + projections -> floors, their firing rates and their price."""

from keel.calibrate.bands import Band, default_bands
from keel.calibrate.calibrate import CalibrateSettings, calibrate_floors
from keel.calibrate.distributions import Projections, choose_rollouts, read_projections
from keel.calibrate.floors import floors_at_deviation, floors_at_percentile
from keel.calibrate.price import price_settings

__all__ = [
    "Band",
    "CalibrateSettings",
    "Projections",
    "calibrate_floors",
    "choose_rollouts",
    "default_bands",
    "floors_at_deviation",
    "floors_at_percentile",
    "price_settings",
    "read_projections",
]
