"""A sweep over settings of capping: screened, measured, one recommended, kept in the run."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from keel.calibrate import (
    GridPoint,
    Metric,
    Projections,
    choose_rollouts,
    grid_settings,
    is_inert_by_nominal,
    prune_settings,
    read_projections,
    screen_settings,
    split_items,
    sweep_settings,
)
from keel.engines import Engine
from keel.errors import TooFewSamplesError, UsageError
from keel.evaluate import EngineAnswerer
from keel.evaluate.capability import TaskSource
from keel.pipeline.axis import check_same_model
from keel.pipeline.calibrate import calibrate
from keel.pipeline.evaluating import price_evaluation
from keel.pipeline.progress import OnProgress, silent
from keel.pipeline.sweep_metrics import (
    answers_scorer,
    arm_of,
    evaluation_of,
    paired_change,
    price_items,
    price_scorer,
    tasks_scorer,
)
from keel.settings import CalibrateSettings, SweepSettings
from keel.store import RunFolder, SweepWork
from keel.types import (
    Floor,
    Floors,
    Grader,
    Rollout,
    Rubric,
    ScreenedSetting,
    ScreenReading,
    Suite,
    Sweep,
)

_NOT_ADOPTED = (
    "The run keeps its default setting: the items held back do not bear a recommendation out, and "
    "only one that they do is adopted."
)
_PRICE = "log-likelihood of its own answers"
_SCREENED = "screened"


@dataclass(frozen=True)
class SweepInputs:
    """What harm and capability are measured by."""

    suite: Suite
    grader: Grader
    rubric: Rubric
    tasks: tuple[TaskSource, ...] = ()
    """lm-eval's tasks; empty: how likely the model's own default answers stay."""


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
        points, screened = job.screen(on_progress)
        fates = {setting.name: setting.fate for setting in screened}
        kept = [point.floors for point in points if fates[point.name] == "kept"]
        if not kept:
            counts = Counter(fates.values()).most_common()
            raise UsageError(
                f"of {len(screened)} settings none is worth measuring: "
                f"{', '.join(f'{count} {fate}' for fate, count in counts)}; try other heights with "
                "--percentile or --deviations, or accept dearer ones with --max-price"
            )
        result = sweep_settings(
            kept,
            screened,
            harm=job.harm(on_progress),
            capability=job.capability(on_progress),
            compare=paired_change(settings.seed),
            tolerance=job.tolerance,
            seed=settings.seed,
            on_progress=on_progress,
        )
        if settings.adopt and not result.is_confirmed:
            result = replace(result, warnings=(*result.warnings, _NOT_ADOPTED))
        folder.save_sweep(result, kept, adopt=settings.adopt and result.is_confirmed)
        return result


def price_sweep(
    engine: Engine, folder: RunFolder, inputs: SweepInputs, settings: SweepSettings
) -> dict[str, Any]:
    """What a sweep would take, at the most: settings, answers, minutes. Nothing is kept."""
    run = folder.read()
    check_same_model(engine, run.axis)
    job = SweepJob(engine, folder, inputs, settings)
    size = settings.grid.size(engine.layers)
    most = min(settings.limits.max_settings, size)
    by = (inputs.grader, inputs.rubric)
    prices = [
        price_evaluation(
            folder,
            evaluation_of(
                job.answerer, inputs.suite, half, by, (arm_of(None),), seed=settings.seed
            ),
        )
        for half in (job.harm_halves.choosing, job.harm_halves.deciding)
    ]
    minutes = sum(float(price.get("minutes of answering, at most", 0)) for price in prices)
    return {
        "settings in the grid": size,
        "settings measured, at most": most,
        "items to choose by": len(job.harm_halves.choosing),
        "items held back": len(job.harm_halves.deciding),
        "answers, at most": (most + 1) * sum(int(price["answers"]) for price in prices),
        "minutes of screening, at most": round(size * job.seconds_to_screen() / 60, 1),
        "minutes of answering, at most": round((most + 1) * minutes, 1),
    }


class SweepJob:
    """The parts of one sweep, each made from the run and the settings alone."""

    def __init__(
        self, engine: Engine, folder: RunFolder, inputs: SweepInputs, settings: SweepSettings
    ) -> None:
        settings.grid.bands(engine.layers)  # refused before anything is read, if none fits
        self.engine, self.folder = engine, folder
        self.inputs, self.settings = inputs, settings
        self.run = folder.read()
        self.work = SweepWork(folder)
        self._chosen: dict[str, list[Rollout]] = {}
        self.answerer = EngineAnswerer(engine, self.run.axis)
        self.harm_halves = split_items(inputs.suite.items, limit=settings.limit, seed=settings.seed)

    @property
    def tolerance(self) -> float:
        """The loss accepted, in capability's unit."""
        if self.settings.tolerance is not None:
            return self.settings.tolerance
        if self.inputs.tasks:
            return self.settings.task_tolerance
        return self.run.calibration.price_bound

    def screen(
        self, on_progress: OnProgress
    ) -> tuple[list[GridPoint], tuple[ScreenedSetting, ...]]:
        """The grid's settings, and the fate of each."""
        points = grid_settings(
            self.settings.grid,
            self._projections(on_progress),
            self.run.axis,
            {floors.name: floors for floors in self.run.floors_file.settings},
        )
        limits = self.settings.limits
        alive = [point.floors for point in points if not is_inert_by_nominal(point, limits)]
        readings = self._readings(alive, on_progress)
        return points, prune_settings(points, readings, layers=self.engine.layers, limits=limits)

    def harm(self, on_progress: OnProgress) -> Metric:
        """Harm by the suite's items and judge."""
        suite = self.inputs.suite
        scorer = answers_scorer(
            self.answerer,
            self.folder,
            suite,
            (self.inputs.grader, self.inputs.rubric),
            seed=self.settings.seed,
            on_progress=on_progress,
        )
        return Metric(f"{suite.measure} ({suite.name})", "share", self.harm_halves, scorer)

    def capability(self, on_progress: OnProgress) -> Metric:
        """Capability by lm-eval's tasks, or by the price on default answers that did not screen."""
        limit, seed, tasks = self.settings.capability_limit, self.settings.seed, self.inputs.tasks
        if tasks:
            items = tuple(item for source in tasks for item in source.open().items())
            scorer = tasks_scorer(self.engine, self.folder, tasks, on_progress=on_progress)
            name = ", ".join(source.task for source in tasks)
            return Metric(name, "share", split_items(items, limit=limit, seed=seed), scorer)
        items = price_items(self._answers("default")[self.settings.screened_on :])
        if len(items) < 2:
            raise TooFewSamplesError(
                f"{len(items)} default answers are left to measure capability by, expected 2 or "
                "more; extract with more questions, or screen on fewer answers"
            )
        halves = split_items(items, limit=limit, seed=seed)
        return Metric(_PRICE, "nats per token", halves, price_scorer(self.engine, self.work))

    def seconds_to_screen(self) -> float:
        """Wall-clock seconds to screen one setting."""
        axis, layer = self.run.axis, self.run.axis.layer
        floor = Floor(layer, axis.direction[layer], float(axis.default_projection[layer]))
        began = time.monotonic()
        list(self._screen([Floors((floor,), "timed")]))
        return time.monotonic() - began

    def _projections(self, on_progress: OnProgress) -> Projections:
        """The calibration's own projections, read once and kept."""
        key = _key(self.run.manifest.files.get("axis.safetensors"), *self._sample)
        kept = self.work.projections(key)
        if kept is not None:
            return Projections(**kept)
        on_progress("reading projections", 0, 1)
        projections = read_projections(
            self.engine, self.run.axis, self._answers("default"), self._answers("roles")
        )
        self.work.keep_projections(
            key, {f.name: getattr(projections, f.name) for f in fields(projections)}
        )
        on_progress("reading projections", 1, 1)
        return projections

    def _readings(
        self, settings: Sequence[Floors], on_progress: OnProgress
    ) -> dict[str, ScreenReading]:
        """Cheap measures of each setting by its name; those kept from before are not made anew."""
        axis = self.run.manifest.files.get("axis.safetensors")
        keys = {
            floors.name: _key(
                arm_of(floors).fingerprint, axis, self.settings.screened_on, *self._sample
            )
            for floors in settings
        }
        rows = {row["key"]: row for row in self.work.rows(_SCREENED)}
        readings = {}
        for name, key in keys.items():
            if (row := rows.get(key)) is not None:
                kls, rises = tuple(row["kls"]), tuple(row["rises"])
                readings[name] = ScreenReading(name, row["realised_firing"], kls, rises)
        on_progress("screening settings", len(readings), len(settings))
        for reading in self._screen([f for f in settings if f.name not in readings]):
            self.work.append(_SCREENED, [{**vars(reading), "key": keys[reading.name]}])
            readings[reading.name] = reading
            on_progress("screening settings", len(readings), len(settings))
        return readings

    def _screen(self, settings: Sequence[Floors]) -> Iterator[ScreenReading]:
        count = self.settings.screened_on
        default, roles = self._answers("default")[:count], self._answers("roles")[:count]
        return screen_settings(self.engine, self.run.axis, settings, default=default, roles=roles)

    @property
    def _sample(self) -> tuple[int, int]:
        """How many answers of each kind the calibration reads, and the seed that draws them."""
        if not self.run.has_calibration:
            defaults = CalibrateSettings()
            return defaults.rollouts, defaults.seed
        return self.run.calibration.answers, self.run.calibration.seed

    def _answers(self, kind: str) -> list[Rollout]:
        """The answers that the calibration read, in the order of its draw."""
        if kind not in self._chosen:
            is_default = kind == "default"
            of_kind = (
                rollout
                for rollout in self.run.rollouts()
                if (rollout.prompt.is_default if is_default else rollout.prompt.is_role)
            )
            self._chosen[kind] = choose_rollouts(of_kind, *self._sample)
        return self._chosen[kind]


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
