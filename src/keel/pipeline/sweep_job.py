"""The parts of one sweep, each made from the run and the settings alone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
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
)
from keel.engines import Engine
from keel.errors import TooFewSamplesError
from keel.evaluate import EngineAnswerer
from keel.evaluate.capability import TaskSource
from keel.pipeline.progress import OnProgress
from keel.pipeline.sweep_measures import (
    answers_measure,
    arm_of,
    price_items,
    price_measure,
    task_items,
    tasks_measure,
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


class SweepJob:
    """One sweep's parts."""

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
        return (
            self.settings.task_tolerance if self.inputs.tasks else self.run.calibration.price_bound
        )

    def screen(
        self, on_progress: OnProgress
    ) -> tuple[list[GridPoint], tuple[ScreenedSetting, ...]]:
        """The grid's settings, and what became of each."""
        tried = grid_settings(
            self.settings.grid,
            self._projections(on_progress),
            self.run.axis,
            {one.name: one for one in self.run.floors_file.settings},
        )
        limits = self.settings.limits
        alive = [one for one in tried if not is_inert_by_nominal(one, limits)]
        proxies = self._proxies([one.floors for one in alive], on_progress)
        layers = self.engine.layers
        return tried, prune_settings(tried, proxies, layers=layers, limits=limits)

    def harm(self, on_progress: OnProgress) -> Metric:
        """The suite's items and judge."""
        inputs = self.inputs
        measure = answers_measure(
            self.answerer,
            self.folder,
            inputs.suite,
            (inputs.grader, inputs.rubric),
            seed=self.settings.seed,
            on_progress=on_progress,
        )
        name = f"{inputs.suite.measure} ({inputs.suite.name})"
        return Metric(name, "share", self.harm_halves, measure)

    def capability(self, on_progress: OnProgress) -> Metric:
        """lm-eval's tasks, or the price on default answers that did not screen."""
        limit, seed, tasks = self.settings.capability_limit, self.settings.seed, self.inputs.tasks
        if tasks:
            halves = split_items(task_items(tasks), limit=limit, seed=seed)
            measure = tasks_measure(self.engine, self.folder, tasks, on_progress=on_progress)
            return Metric(", ".join(one.task for one in tasks), "share", halves, measure)
        items = price_items(self._answers("default")[self.settings.screened_on :])
        if len(items) < 2:
            raise TooFewSamplesError(
                f"{len(items)} default answers are left to measure capability by, expected 2 or "
                "more; extract with more questions, or screen on fewer answers"
            )
        halves = split_items(items, limit=limit, seed=seed)
        return Metric(_PRICE, "nats per token", halves, price_measure(self.engine, self.work))

    def seconds_to_screen(self) -> float:
        """How long one setting takes to screen, by the clock."""
        axis = self.run.axis
        place = axis.layer
        floor = Floor(place, axis.direction[place], float(axis.default_projection[place]))
        began = time.monotonic()
        list(self._measured([Floors((floor,), "timed")]))
        return time.monotonic() - began

    def _projections(self, on_progress: OnProgress) -> Projections:
        """The calibration's own, read once and kept."""
        key = _key(self.run.manifest.files.get("axis.safetensors"), *self._sample)
        kept = self.work.projections(key)
        if kept is not None:
            return Projections(**kept)
        on_progress("reading projections", 0, 1)
        chosen = [self._answers(kind) for kind in ("default", "roles")]
        found = read_projections(self.engine, self.run.axis, chosen[0], chosen[1])
        self.work.keep_projections(key, {f.name: getattr(found, f.name) for f in fields(found)})
        on_progress("reading projections", 1, 1)
        return found

    def _proxies(
        self, floors: Sequence[Floors], on_progress: OnProgress
    ) -> dict[str, ScreenReading]:
        """Cheap measures of each setting, those kept from before among them."""
        keys = {one.name: self._screen_key(one) for one in floors}
        known = {row["key"]: row for row in self.work.rows(_SCREENED)}
        found = {name: _proxies(name, known[k]) for name, k in keys.items() if k in known}
        missing = [one for one in floors if one.name not in found]
        on_progress("screening settings", len(found), len(floors))
        for one in self._measured(missing):
            self.work.append(_SCREENED, [{**vars(one), "key": keys[one.name]}])
            found[one.name] = one
            on_progress("screening settings", len(found), len(floors))
        return found

    def _measured(self, floors: Sequence[Floors]) -> Iterable[ScreenReading]:
        count = self.settings.screened_on
        default, roles = self._answers("default")[:count], self._answers("roles")[:count]
        return screen_settings(self.engine, self.run.axis, floors, default=default, roles=roles)

    def _screen_key(self, floors: Floors) -> str:
        axis = self.run.manifest.files.get("axis.safetensors")
        return _key(arm_of(floors).fingerprint, axis, self.settings.screened_on, *self._sample)

    @property
    def _sample(self) -> tuple[int, int]:
        """How many answers of each kind the calibration reads, and the seed that draws them."""
        usual = CalibrateSettings()
        if not self.run.has_calibration:
            return usual.rollouts, usual.seed
        return self.run.calibration.answers, self.run.calibration.seed

    def _answers(self, kind: str) -> list[Rollout]:
        """The answers that the calibration read, in the order of its draw."""
        if kind not in self._chosen:
            prompts = ((r, r.prompt) for r in self.run.rollouts())
            wanted = (r for r, p in prompts if (p.is_default if kind == "default" else p.is_role))
            self._chosen[kind] = choose_rollouts(wanted, *self._sample)
        return self._chosen[kind]


def _proxies(name: str, row: Mapping[str, Any]) -> ScreenReading:
    return ScreenReading(name, row["realised_firing"], tuple(row["kls"]), tuple(row["rises"]))


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
