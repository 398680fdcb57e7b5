"""How a sweep scores harm and capability: by an evaluation's answers, KL, or lm-eval's tasks.

Each scorer keeps on disk what it measured under which floors, so that a sweep that was
interrupted, or that tries more settings, measures nothing twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
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


def arm_of(floors: Floors | None) -> Arm:
    """The arm that caps with some floors; the unsteered one for None."""
    if floors is None:
        return Arm(UNSTEERED)
    layers = f"layers {floors.layers[0]} to {floors.layers[-1]}"
    return Arm(f"capped:{floors.name}", tuple(floors), note=f"capped with {floors.name} ({layers})")


def is_swept(name: str) -> bool:
    """Whether an evaluation of that name was made by a sweep, for itself alone."""
    return name.startswith(_SWEPT)


# --- by a suite's answers ---


def answers_scorer(
    answerer: Answerer,
    folder: RunFolder,
    suite: Suite,
    by: tuple[Grader, Rubric],
    *,
    seed: int,
    on_progress: OnProgress = silent,
) -> Scorer:
    """Scores an answer 1 if it counts in the suite, else 0; each setting is an arm.

    The items of one half are one evaluation of the run, with its answers, verdicts and table.
    """

    def score(floors: Floors | None, items: Sequence[Item]) -> Scores:
        arm = arm_of(floors)
        evaluation = evaluation_of(answerer, suite, items, by, (arm,), seed=seed)
        # Arms that did something else under this name are from another calibration.
        evaluate(folder, evaluation, overwrite=True, on_progress=_without_summing_up(on_progress))
        kept = EvaluationFolder(folder, evaluation.folder_name)
        verdicts = kept.verdicts(by[0].verdicts_name(by[1]))
        return dict(_scored(suite, items, kept.answers(arm.name), verdicts))

    return score


def evaluation_of(
    answerer: Answerer,
    suite: Suite,
    items: Sequence[Item],
    by: tuple[Grader, Rubric],
    arms: tuple[Arm, ...],
    *,
    seed: int,
) -> Evaluation:
    """Some of a suite's items under arms, kept under a name that hashes which items."""
    parts = "\n".join((*(item.id for item in items), str(seed), repr(suite.sampling)))
    digest = hashlib.sha256(parts.encode()).hexdigest()[:8]
    name = f"{_SWEPT}{suite.name}-{digest}"
    return Evaluation(replace(suite, items=tuple(items)), arms, answerer, *by, name=name, seed=seed)


# --- by the price on the model's own answers ---


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


# --- by lm-eval's tasks ---


def tasks_scorer(
    engine: Engine,
    folder: RunFolder,
    tasks: Sequence[TaskSource],
    *,
    on_progress: OnProgress = silent,
) -> Scorer:
    """lm-eval's score of each item, 1 being the best (EQ-Bench may be under 0); each task an
    evaluation.

    Both halves of a task are answered at once: lm-eval scores a task as a whole.
    """

    def score(floors: Floors | None, items: Sequence[Item]) -> Scores:
        scores: dict[str, float] = {}
        for source in tasks:
            stem = "".join(c if c.isalnum() or c in "_-" else "-" for c in Path(source.task).stem)
            name = f"{_SWEPT}{stem}-{source.settings.limit or 'all'}"
            task, arm = source.open(), arm_of(floors)
            evaluation = task_evaluation(task, task_answerer(task, engine), (arm,), name=name)
            evaluate(
                folder, evaluation, overwrite=True, on_progress=_without_summing_up(on_progress)
            )
            kept = EvaluationFolder(folder, name)
            verdicts = kept.verdicts(evaluation.grader.verdicts_name(evaluation.rubric))
            scored = _scored(evaluation.suite, kept.items(), kept.answers(arm.name), verdicts)
            scores |= {item: share_of_best(value, task) for item, value in scored}
        return {item.id: scores[item.id] for item in items if item.id in scores}

    return score


def share_of_best(score: float, task: CapabilityTask) -> float:
    """A task's score of one item as a share of the best score, 1 being the best.

    Raises UsageError where the score is beyond the best.
    """
    share = score / _WHOLE.get(task.name, 1.0)
    if share > 1:
        raise UsageError(
            f"task {task.name!r} scores an item {score:g}, expected at most 1: a sweep cannot "
            "average it with others; choose another task"
        )
    return share if task.is_higher_better else 1 - share


# --- shared ---


def _scored(
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


def _without_summing_up(on_progress: OnProgress) -> OnProgress:
    """Passes on the progress of answering and judging; summing up takes no time beside them."""

    def report(stage: str, done: int, total: int) -> None:
        if not stage.startswith(("drawing", "scoring")):
            on_progress(stage, done, total)

    return report
