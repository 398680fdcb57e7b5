"""A sweep over settings of capping: screened, measured, one recommended, kept in the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from keel.calibrate import sweep_settings
from keel.engines import Engine
from keel.errors import UsageError
from keel.pipeline.axis import check_same_model
from keel.pipeline.calibrate import calibrate
from keel.pipeline.evaluating import price_evaluation
from keel.pipeline.progress import OnProgress, silent
from keel.pipeline.sweep_job import SweepInputs, SweepJob
from keel.pipeline.sweep_measures import arm_of, evaluation_of, paired_change
from keel.settings import SweepSettings
from keel.store import RunFolder
from keel.types import ScreenedSetting, Sweep

_NOT_ADOPTED = (
    "The run keeps its default setting: the items held back do not bear a recommendation out, and "
    "only one that they do is adopted."
)


def sweep(
    engine: Engine,
    folder: RunFolder,
    inputs: SweepInputs,
    settings: SweepSettings = SweepSettings(),
    *,
    on_progress: OnProgress = silent,
) -> Sweep:
    """Every setting of the grid screened, the survivors measured, the best recommended.

    Goes on where an interrupted call stopped, to the same result; a run that was not calibrated
    is calibrated first. Measured settings become named settings of the run.
    """
    with folder.lock():
        check_same_model(engine, folder.read().axis)
        if not folder.read().has_calibration:
            calibrate(engine, folder, on_progress=on_progress)
        job = SweepJob(engine, folder, inputs, settings)
        tried, screened = job.screen(on_progress)
        fates = {one.name: one.fate for one in screened}
        kept = [one.floors for one in tried if fates[one.name] == "kept"]
        if not kept:
            raise UsageError(_none_kept(screened))
        found = sweep_settings(
            kept,
            screened,
            harm=job.harm(on_progress),
            capability=job.capability(on_progress),
            compare=paired_change(settings.seed),
            tolerance=job.tolerance,
            seed=settings.seed,
            on_progress=on_progress,
        )
        if settings.adopt and not found.is_confirmed:
            found = replace(found, warnings=(*found.warnings, _NOT_ADOPTED))
        folder.save_sweep(found, kept, adopt=settings.adopt and found.is_confirmed)
        return found


def price_sweep(
    engine: Engine, folder: RunFolder, inputs: SweepInputs, settings: SweepSettings
) -> dict[str, Any]:
    """What a sweep would take, at the most: settings, answers, minutes. Nothing is kept."""
    run = folder.read()
    check_same_model(engine, run.axis)
    job = SweepJob(engine, folder, inputs, settings)
    most = min(settings.limits.max_settings, settings.grid.size(engine.layers))
    halves = (job.harm_halves.choosing, job.harm_halves.deciding)
    by, seed = (inputs.grader, inputs.rubric), settings.seed
    one_arm = [
        price_evaluation(
            folder,
            evaluation_of(job.answerer, inputs.suite, half, by, (arm_of(None),), seed=seed),
        )
        for half in halves
    ]
    minutes = sum(float(part.get("minutes of answering, at most", 0)) for part in one_arm)
    size = settings.grid.size(engine.layers)
    return {
        "settings in the grid": size,
        "settings measured, at most": most,
        "items to choose by": len(job.harm_halves.choosing),
        "items held back": len(job.harm_halves.deciding),
        "answers, at most": (most + 1) * sum(int(part["answers"]) for part in one_arm),
        "minutes of screening, at most": round(size * job.seconds_to_screen() / 60, 1),
        "minutes of answering, at most": round((most + 1) * minutes, 1),
    }


def _none_kept(screened: Sequence[ScreenedSetting]) -> str:
    fates = Counter(one.fate for one in screened)
    told = ", ".join(f"{count} {fate}" for fate, count in fates.most_common())
    return (
        f"of {len(screened)} settings none is worth measuring: {told}; try other heights with "
        "--percentile or --deviations, or accept dearer ones with --max-price"
    )
