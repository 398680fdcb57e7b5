"""Finds a run's floors and their prices."""

from __future__ import annotations

from keel.calibrate import calibrate_floors
from keel.engines import Engine
from keel.pipeline.axis import check_same_model
from keel.pipeline.progress import OnProgress, silent
from keel.settings import CalibrateSettings
from keel.store import RunFolder
from keel.types import Calibration


def calibrate(
    engine: Engine,
    folder: RunFolder,
    settings: CalibrateSettings = CalibrateSettings(),
    *,
    on_progress: OnProgress = silent,
) -> Calibration:
    """Projections -> floors with their firing rates and prices, kept in the run."""
    run = folder.read()
    check_same_model(engine, run.axis)
    calibration = calibrate_floors(
        engine,
        run.axis,
        default=(r for r in run.rollouts() if r.prompt.is_default),
        roles=(r for r in run.rollouts() if r.prompt.is_role),
        settings=settings,
        on_progress=lambda done, total: on_progress("pricing floors", done, total),
    )
    folder.save_calibration(calibration)
    return calibration
