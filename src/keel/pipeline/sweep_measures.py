"""How a sweep measures harm and capability: an evaluation's answers, KL, or lm-eval's tasks.

Each measure remembers on disk what it found under which floors, so that a sweep that was
interrupted, or that tries more settings, asks nothing twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from keel.calibrate import CompareScores, Scorer, Scores
from keel.engines import Engine
from keel.errors import UsageError
from keel.evaluate import Answerer, Arm, Evaluation, cases_of
from keel.evaluate.capability import CapabilityTask, TaskSource, task_answerer, task_evaluation
from keel.pipeline.evaluating import evaluate
from keel.pipeline.progress import OnProgress, silent
from keel.statistics import Resampling, difference_interval
from keel.store import EvaluationFolder, RunFolder, SweepWork
from keel.types import (
    UNSTEERED,
    Answered,
    Conversation,
    Floors,
    Grader,
    Interval,
    Item,
    Rollout,
    Rubric,
    Suite,
    Verdict,
)

_PRICES, _SWEPT = "prices", "sweep-"
_WHOLE = {"eq_bench": 100.0}
"""Highest score of an item, for tasks where it is not 1."""


def paired_change(seed: int) -> CompareScores:
    """Mean difference of scores, item by item, with the interval that evaluations have."""

    def compare(items: Sequence[Item], before: Scores, after: Scores) -> Interval:
        draws = Resampling.of([item.factors for item in items], seed=seed)
        values = [np.array([scores[item.id] for item in items]) for scores in (after, before)]
        return difference_interval(values[0], values[1], draws)

    return compare


def answers_measure(
    answerer: Answerer,
    folder: RunFolder,
    suite: Suite,
    by: tuple[Grader, Rubric],
    *,
    seed: int,
    on_progress: OnProgress = silent,
) -> Scorer:
    """1 for an answer that counts in the suite, 0 for another; each setting an arm.

    The items of one half are one evaluation of the run, with its answers, verdicts and table.
    """

    def measure(floors: Floors | None, items: Sequence[Item]) -> Scores:
        arm = arm_of(floors)
        evaluation = evaluation_of(answerer, suite, items, by, (arm,), seed=seed)
        # Arms that did something else under this name are from another calibration.
        evaluate(folder, evaluation, overwrite=True, on_progress=_answering(on_progress))
        kept = EvaluationFolder(folder, evaluation.folder_name)
        verdicts = kept.verdicts(by[0].verdicts_name(by[1]))
        return dict(_counted(suite, items, kept.answers(arm.name), verdicts))

    return measure


def arm_of(floors: Floors | None) -> Arm:
    """The arm that caps with some floors; the unsteered one for None."""
    if floors is None:
        return Arm(UNSTEERED)
    layers = f"layers {floors.layers[0]} to {floors.layers[-1]}"
    return Arm(f"capped:{floors.name}", tuple(floors), note=f"capped with {floors.name} ({layers})")


def evaluation_of(
    answerer: Answerer,
    suite: Suite,
    items: Sequence[Item],
    by: tuple[Grader, Rubric],
    arms: tuple[Arm, ...],
    *,
    seed: int,
) -> Evaluation:
    """Some of a suite's items under arms, kept under a name that tells these items apart."""
    told = "\n".join((*(item.id for item in items), str(seed), repr(suite.sampling)))
    words = hashlib.sha256(told.encode()).hexdigest()[:8]
    some = replace(suite, items=tuple(items))
    name = f"{_SWEPT}{suite.name}-{words}"
    return Evaluation(some, arms, answerer, *by, name=name, seed=seed)


def is_swept(name: str) -> bool:
    """Whether an evaluation of that name was made by a sweep, for itself alone."""
    return name.startswith(_SWEPT)


def price_items(rollouts: Sequence[Rollout]) -> tuple[Item, ...]:
    """Answers of the model as itself, to be read again; those to one question belong together."""
    return tuple(
        Item(r.prompt.id, r.conversation, {"question": str(r.prompt.question_index)})
        for r in rollouts
    )


def price_measure(engine: Engine, work: SweepWork) -> Scorer:
    """Minus the KL per token from the unsteered model on its own answers; unsteered 0."""

    def measure(floors: Floors | None, items: Sequence[Item]) -> Scores:
        if floors is None:
            return dict.fromkeys((item.id for item in items), 0.0)
        key = arm_of(floors).fingerprint
        known = {r["item"]: r["score"] for r in work.rows(_PRICES) if r["key"] == key}
        missing = [item for item in items if item.id not in known]
        fresh = dict(_prices(engine, floors, missing))
        work.append(_PRICES, [{"key": key, "item": i, "score": s} for i, s in fresh.items()])
        return {item.id: {**known, **fresh}[item.id] for item in items}

    return measure


def task_items(tasks: Sequence[TaskSource]) -> tuple[Item, ...]:
    """The items of all tasks, in the order of their data."""
    return tuple(item for source in tasks for item in source.open().items())


def tasks_measure(
    engine: Engine,
    folder: RunFolder,
    tasks: Sequence[TaskSource],
    *,
    on_progress: OnProgress = silent,
) -> Scorer:
    """lm-eval's score of each item, 1 being the best (EQ-Bench may be under 0); each task an
    evaluation.

    Both halves of a task are asked at once: lm-eval scores a task as a whole.
    """

    def measure(floors: Floors | None, items: Sequence[Item]) -> Scores:
        scores: dict[str, float] = {}
        for source in tasks:
            name = f"{_SWEPT}{_plain(source.task)}-{source.settings.limit or 'all'}"
            task, arm = source.open(), arm_of(floors)
            answerer = task_answerer(task, engine)
            evaluation = task_evaluation(task, answerer, (arm,), name=name)
            evaluate(folder, evaluation, overwrite=True, on_progress=_answering(on_progress))
            kept = EvaluationFolder(folder, name)
            verdicts = kept.verdicts(evaluation.grader.verdicts_name(evaluation.rubric))
            scored = _counted(evaluation.suite, kept.items(), kept.answers(arm.name), verdicts)
            scores |= {item: _share(score, task) for item, score in scored}
        return {item.id: scores[item.id] for item in items if item.id in scores}

    return measure


def _share(score: float, task: CapabilityTask) -> float:
    share = score / _WHOLE.get(task.name, 1.0)
    if share > 1:
        raise UsageError(
            f"task {task.name!r} scores an item {score:g}, expected at most 1: a sweep cannot "
            "average it with others; choose another task"
        )
    return share if task.is_higher_better else 1 - share


def _plain(task: str) -> str:
    return "".join(one if one.isalnum() or one in "_-" else "-" for one in Path(task).stem)


def _prices(engine: Engine, floors: Floors, items: Sequence[Item]) -> Iterator[tuple[str, float]]:
    conversations: list[Conversation] = [item.conversation for item in items]
    if conversations:
        for one in engine.divergence(conversations, [list(floors)]):
            yield items[one.index].id, -one.kl


def _answering(on_progress: OnProgress) -> Callable[[str, int, int], None]:
    """Passes on how far answering and judging are; summing up takes no time beside them."""

    def tell(stage: str, done: int, total: int) -> None:
        if not stage.startswith(("drawing", "scoring")):
            on_progress(stage, done, total)

    return tell


def _counted(
    suite: Suite,
    items: Sequence[Item],
    answers: Sequence[Answered],
    verdicts: Mapping[str, Verdict],
) -> Iterator[tuple[str, float]]:
    """(item, score) of every answer that was judged."""
    by_id = {item.id: item for item in items}
    for answer in answers:
        (case,) = cases_of([by_id[answer.item_id]], {answer.arm: [answer]})
        verdict = verdicts.get(case.id)
        if verdict is None or verdict.status != "ok":
            continue
        if suite.counted:
            yield answer.item_id, float(verdict.label in suite.counted)
        elif verdict.score is not None:
            yield answer.item_id, verdict.score
