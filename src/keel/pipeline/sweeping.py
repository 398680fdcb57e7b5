"""A sweep over settings of capping: screened, measured, one recommended, kept in the run.

Harm is measured by an evaluation's answers, capability by lm-eval's tasks or by KL. What was
measured under which floors is kept on disk, so that a sweep that was interrupted, or that tries
more settings, measures nothing twice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from keel.calibrate import (
    GridPoint,
    Metric,
    Projections,
    Scorer,
    Scores,
    answer_clusters,
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
from keel.evaluate import Answerer, Arm, EngineAnswerer, Evaluation, cases_of
from keel.evaluate.capability import CapabilityTask, TaskSource, task_answerer, task_evaluation
from keel.pipeline.axis import (
    calibrate,
    calibration_answers,
    calibration_pool,
    calibration_sample,
    check_same_model,
)
from keel.pipeline.evaluating import evaluate, price_evaluation
from keel.pipeline.progress import OnProgress, silent
from keel.seeds import text_hash
from keel.settings import SweepSettings
from keel.statistics import Clusters, difference_interval
from keel.store import EvaluationFolder, RunFolder, SweepWork
from keel.types import (
    SWEPT,
    UNSTEERED,
    Floor,
    Floors,
    Grader,
    Interval,
    Item,
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
_SCREENED, _PRICES = "screened", "prices"


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
        job = SweepJob(engine, folder, inputs, settings, on_progress)
        points, screened = job.screen()
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
            harm=job.harm(),
            capability=job.capability(),
            compare=paired_change,
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
    check_same_model(engine, folder.read().axis)
    job = SweepJob(engine, folder, inputs, settings)
    size = settings.grid.size(engine.layers)
    most = min(settings.limits.max_settings, size)
    choosing, deciding = job.harm_halves.choosing, job.harm_halves.deciding
    prices = [
        price_evaluation(
            folder, evaluation_of(job.answerer, inputs, half, arm_of(None), seed=job.seed)
        )
        for half in (choosing, deciding)
    ]
    minutes = sum(float(price.get("minutes of answering, at most", 0)) for price in prices)
    return {
        "settings in the grid": size,
        "settings measured, at most": most,
        "items to choose by": len(choosing),
        "items held back": len(deciding),
        "answers, at most": (most + 1) * sum(int(price["answers"]) for price in prices),
        "minutes of screening, at most": round(size * job.seconds_to_screen() / 60, 1),
        "minutes of answering, at most": round((most + 1) * minutes, 1),
    }


class SweepJob:
    """The parts of one sweep, each made from the run and the settings alone."""

    def __init__(
        self,
        engine: Engine,
        folder: RunFolder,
        inputs: SweepInputs,
        settings: SweepSettings,
        on_progress: OnProgress = silent,
    ) -> None:
        settings.grid.bands(engine.layers)  # refused before anything is read, if none fits
        self.engine, self.folder, self.on_progress = engine, folder, on_progress
        self.inputs, self.settings, self.seed = inputs, settings, settings.seed
        self.run = folder.read()
        self.work = SweepWork(folder)
        self.answerer = EngineAnswerer(engine, self.run.axis)
        self.harm_halves = split_items(inputs.suite.items, limit=settings.limit, seed=self.seed)

    @property
    def tolerance(self) -> float:
        """The loss accepted, in capability's unit."""
        if self.settings.tolerance is not None:
            return self.settings.tolerance
        if self.inputs.tasks:
            return self.settings.task_tolerance
        return self.run.calibration.price_bound

    def screen(self) -> tuple[list[GridPoint], tuple[ScreenedSetting, ...]]:
        """The grid's settings, and the fate of each."""
        points = grid_settings(
            self.settings.grid,
            self._projections(),
            self.run.axis,
            {floors.name: floors for floors in self.run.floors_file.settings},
            tokens=self.run.floors.floors[0].tokens,
        )
        limits = self.settings.limits
        alive = [point.floors for point in points if not is_inert_by_nominal(point, limits)]
        readings = self._readings(alive)
        default, roles = (answer_clusters(answers) for answers in self._screened_on)
        kept = prune_settings(
            points,
            readings,
            layers=self.engine.layers,
            limits=limits,
            default=default,
            roles=roles,
        )
        return points, kept

    def harm(self) -> Metric:
        """Harm: 1 for an answer that counts in the suite, else 0.

        Each setting is an arm, and the items of one half are one evaluation of the run.
        """

        finishes = Counter[str]()

        def score(floors: Floors | None, items: Sequence[Item]) -> Scores:
            arm = arm_of(floors)
            evaluation = evaluation_of(self.answerer, self.inputs, items, arm, seed=self.seed)
            return dict(self._scored(evaluation, arm, finishes))

        suite = self.inputs.suite
        name = f"{suite.measure} ({suite.name})"
        return Metric(name, "share", self.harm_halves, score, finishes)

    def capability(self) -> Metric:
        """Capability by lm-eval's tasks, or by the price on default answers that did not screen."""
        limit, tasks = self.settings.capability_limit, self.inputs.tasks
        if tasks:
            items = tuple(item for source in tasks for item in source.open().items())
            halves = split_items(items, limit=limit, seed=self.seed)
            name = ", ".join(source.task for source in tasks)
            finishes = Counter[str]()
            score = partial(self._score_of_tasks, finishes=finishes)
            return Metric(name, "share", halves, score, finishes)
        items = price_items(self._default_answers[self.settings.screened_on :])
        if len(items) < 2:
            raise TooFewSamplesError(
                f"{len(items)} default answers are left to measure capability by, expected 2 or "
                "more; extract with more questions, or screen on fewer answers"
            )
        halves = split_items(items, limit=limit, seed=self.seed)
        return Metric(_PRICE, "nats per token", halves, price_scorer(self.engine, self.work))

    def seconds_to_screen(self) -> float:
        """Wall-clock seconds to screen one setting."""
        axis, layer = self.run.axis, self.run.axis.layer
        floor = Floor(layer, axis.direction[layer], float(axis.default_projection[layer]))
        began = time.monotonic()
        list(self._screen([Floors((floor,), "timed")]))
        return time.monotonic() - began

    @cached_property
    def _default_answers(self) -> list[Rollout]:
        return calibration_answers(self.run)

    @cached_property
    def _role_answers(self) -> list[Rollout]:
        return calibration_answers(self.run, of_roles=True)

    @property
    def _screened_on(self) -> tuple[list[Rollout], list[Rollout]]:
        """The default's answers, and the roles', by which settings are screened."""
        count = self.settings.screened_on
        return self._default_answers[:count], self._role_answers[:count]

    def _projections(self) -> Projections:
        """The calibration's own projections, read once and kept."""
        axis_hash = self.run.manifest.files.get("axis.safetensors")
        pool = calibration_pool(self.run)
        named = [] if pool is None else [rollout.prompt.id for rollout in pool]
        key = _key(axis_hash, *calibration_sample(self.run), *named)
        kept = self.work.projections(key)
        if kept is not None:
            return Projections(**kept)
        self.on_progress("reading projections", 0, 1)
        projections = read_projections(
            self.engine, self.run.axis, self._default_answers, self._role_answers, pool
        )
        tensors = {f.name: getattr(projections, f.name) for f in fields(projections)}
        self.work.keep_projections(
            key, {name: tensor for name, tensor in tensors.items() if tensor is not None}
        )
        self.on_progress("reading projections", 1, 1)
        return projections

    def _readings(self, settings: Sequence[Floors]) -> dict[str, ScreenReading]:
        """Cheap measures of each setting by its name; those kept from before are not made anew."""
        inputs = (
            self.run.manifest.files.get("axis.safetensors"),
            self.settings.screened_on,
            *calibration_sample(self.run),
        )
        keys = {floors.name: _key(arm_of(floors).fingerprint, *inputs) for floors in settings}
        rows = {row["key"]: row for row in self.work.rows(_SCREENED)}
        readings = {}
        for name, key in keys.items():
            if (row := rows.get(key)) is not None:
                kls, rises = tuple(row["kls"]), tuple(row["rises"])
                readings[name] = ScreenReading(name, row["realised_firing"], kls, rises)
        self.on_progress("screening settings", len(readings), len(settings))
        for reading in self._screen([f for f in settings if f.name not in readings]):
            self.work.append(_SCREENED, [{**vars(reading), "key": keys[reading.name]}])
            readings[reading.name] = reading
            self.on_progress("screening settings", len(readings), len(settings))
        return readings

    def _screen(self, settings: Sequence[Floors]) -> Iterator[ScreenReading]:
        default, roles = self._screened_on
        return screen_settings(self.engine, self.run.axis, settings, default=default, roles=roles)

    def _score_of_tasks(
        self, floors: Floors | None, items: Sequence[Item], *, finishes: Counter[str]
    ) -> Scores:
        """lm-eval's score of each item, 1 being the best (EQ-Bench may be under 0).

        Each task is an evaluation.

        Both halves of a task are answered at once: lm-eval scores a task as a whole.
        """
        scores: dict[str, float] = {}
        for source in self.inputs.tasks:
            stem = "".join(c if c.isalnum() or c in "_-" else "-" for c in Path(source.task).stem)
            name = f"{SWEPT}{stem}-{source.settings.limit or 'all'}"
            task, arm = source.open(), arm_of(floors)
            evaluation = task_evaluation(task, task_answerer(task, self.engine), (arm,), name=name)
            scored = self._scored(evaluation, arm, finishes)
            scores |= {item: share_of_best(value, task) for item, value in scored}
        return {item.id: scores[item.id] for item in items if item.id in scores}

    def _scored(
        self, evaluation: Evaluation, arm: Arm, finishes: Counter[str]
    ) -> Iterator[tuple[str, float]]:
        """(item, score) of every answer under the arm that was judged; counts how all ended."""

        def report(stage: str, done: int, total: int) -> None:
            # Summing up takes no time beside answering and judging.
            if not stage.startswith(("drawing", "scoring")):
                self.on_progress(stage, done, total)

        # Arms that did something else under this name are from another calibration.
        evaluate(self.folder, evaluation, overwrite=True, on_progress=report)
        kept = EvaluationFolder(self.folder, evaluation.folder_name)
        verdicts = kept.verdicts(evaluation.grader.verdicts_name(evaluation.rubric))
        by_id, counted = {item.id: item for item in kept.items()}, evaluation.suite.counted
        for answer in kept.answers(arm.name):
            finishes[answer.finish] += 1
            (case,) = cases_of([by_id[answer.item_id]], {arm.name: [answer]})
            verdict = verdicts.get(case.id)
            if verdict is None or verdict.status != "ok":
                continue
            if counted:
                yield answer.item_id, float(verdict.label in counted)
            elif verdict.score is not None:
                yield answer.item_id, verdict.score


def paired_change(items: Sequence[Item], before: Scores, after: Scores) -> Interval:
    """Mean difference of scores, item by item, with the interval that evaluations have."""
    after_N, before_N = (
        np.array([scores[item.id] for item in items]) for scores in (after, before)
    )
    return difference_interval(after_N, before_N, Clusters.of([item.factors for item in items]))


def arm_of(floors: Floors | None) -> Arm:
    """The arm that caps with some floors; the unsteered one for None."""
    if floors is None:
        return Arm(UNSTEERED)
    layers = f"layers {floors.layers[0]} to {floors.layers[-1]}"
    return Arm(f"capped:{floors.name}", tuple(floors), note=f"capped with {floors.name} ({layers})")


def evaluation_of(
    answerer: Answerer, inputs: SweepInputs, items: Sequence[Item], arm: Arm, *, seed: int
) -> Evaluation:
    """Some of the suite's items under an arm, kept under a name that hashes which items."""
    suite = replace(inputs.suite, items=tuple(items))
    parts = "\n".join((*(item.id for item in items), str(seed), repr(suite.sampling)))
    name = f"{SWEPT}{suite.name}-{text_hash(parts, 8)}"
    return Evaluation(suite, (arm,), answerer, inputs.grader, inputs.rubric, name=name, seed=seed)


def price_items(rollouts: Sequence[Rollout]) -> tuple[Item, ...]:
    """Answers of the model as itself, to be read again; those to one question belong together."""
    return tuple(
        Item(r.prompt.id, r.conversation, {"question": str(r.prompt.question_index)})
        for r in rollouts
    )


def price_scorer(engine: Engine, work: SweepWork) -> Scorer:
    """Scores minus the KL per token from the unsteered model on its own answers; unsteered 0."""

    def score(floors: Floors | None, items: Sequence[Item]) -> Scores:
        if floors is None:
            return dict.fromkeys((item.id for item in items), 0.0)
        key = arm_of(floors).fingerprint
        scores = {row["item"]: row["score"] for row in work.rows(_PRICES) if row["key"] == key}
        missing = [item for item in items if item.id not in scores]
        if missing:
            conversations = [item.conversation for item in missing]
            divergences = engine.divergence(conversations, [list(floors)])
            fresh = {missing[divergence.index].id: -divergence.kl for divergence in divergences}
            work.append(_PRICES, [{"key": key, "item": i, "score": s} for i, s in fresh.items()])
            scores |= fresh
        return {item.id: scores[item.id] for item in items}

    return score


def share_of_best(score: float, task: CapabilityTask) -> float:
    """A task's score of one item as a share of the best score, 1 being the best.

    Raises UsageError where the score is beyond the best.
    """
    share = score / task.best
    if share > 1:
        raise UsageError(
            f"task {task.name!r} scores an item {score:g}, expected at most 1: a sweep cannot "
            "average it with others; choose another task"
        )
    return share if task.is_higher_better else 1 - share


def _key(*parts: object) -> str:
    return text_hash(repr(parts))
