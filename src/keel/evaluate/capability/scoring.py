"""lm-eval's scores as verdicts, and a task as an evaluation like every other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from numbers import Real
from typing import Any

import numpy as np

from keel.evaluate.arms import Arm
from keel.evaluate.capability.answering import TaskAnswerer
from keel.evaluate.capability.task import TASK_RUBRIC, CapabilityTask
from keel.evaluate.evaluation import Evaluation, Procedure
from keel.statistics import Floats
from keel.types import (
    Case,
    Grader,
    Item,
    Rubric,
    ScoreColumn,
    Scoring,
    Suite,
    Verdict,
)

_JUDGE = "lm-eval"
"""Under this name scores are kept as verdicts."""
_SCALE = Rubric(TASK_RUBRIC, 1, "scored by the task", low=0, high=1)
"""A suite names a rubric; no judge reads this one."""


def task_evaluation(
    task: CapabilityTask,
    answerer: TaskAnswerer,
    arms: tuple[Arm, ...],
    *,
    name: str = "",
    warnings: tuple[str, ...] = (),
    command: str = "",
) -> Evaluation:
    """The task under the arms, scored by lm-eval.

    Kept under the task's name where no other is given. Raises UsageError where the answers that
    the task allows do not fit into the model's context.
    """
    settings = task.settings

    def deciding(items: Sequence[Item]) -> dict[str, Any]:
        return {
            "suite": task.name,
            "lm_eval": version("lm_eval"),
            "task version": task.versions,
            "data": task.data_hash(items),
            "limit": settings.limit or "all",
            "chat template": answerer.is_chat,
            "max_new_tokens": settings.max_new_tokens or "as the task says",
            "batch_size": settings.batch_size or "by memory",
        }

    allowed = settings.max_new_tokens
    facts = {
        "task": f"{task.name}, version {task.versions}",
        "examples in the prompt": "0",
        "chat template": "yes" if answerer.is_chat else "no",
        "answers": f"at most {allowed} tokens" if allowed else "as long as the task allows",
        "data": task.source,
    }
    return Evaluation(
        task.suite(),
        arms,
        answerer,
        TaskGrader(task),
        _SCALE,
        name=name,
        seed=settings.seed,
        warnings=(*warnings, *answerer.warnings),
        command=command,
        procedure=Procedure(deciding, facts, batch_seed=lambda seed, _turn, number: seed + number),
    )


class TaskGrader(Grader):
    """Gives lm-eval's score of an answer as its verdict: the reported measure, the rest in words.

    All answers are scored anew each time: the number that a task reports need not be the mean of
    its items', and hangs on all of an arm's answers.
    """

    needs_all = True

    def __init__(self, task: CapabilityTask) -> None:
        self.task = task
        self._values: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """`lm-eval` with its version."""
        return f"{_JUDGE} {version('lm_eval')}"

    def verdicts_name(self, rubric: Rubric) -> str:
        """`lm-eval`, whatever its version: another one is another evaluation."""
        return _JUDGE

    def grade(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        """One verdict per case."""
        waiting = list(cases)
        while waiting:
            # lm-eval scores one answer per item at a time.
            batch: dict[str, Case] = {}
            for case in waiting:
                batch.setdefault(case.conversation.id, case)
            waiting = [case for case in waiting if batch[case.conversation.id] is not case]
            texts = {item: case.conversation.messages[-1].content for item, case in batch.items()}
            for item_id, values in self.task.score(texts).items():
                case, value = batch[item_id], values[self.task.key]
                self._values[case.id] = value
                parts = value if isinstance(value, list | tuple) else [value]
                number = float(np.mean([float(part) for part in parts]))
                metrics = "; ".join(f"{name} {_plain(v)}" for name, v in values.items())
                yield Verdict(case.id, f"{number:g}", number, reason=metrics)

    def scoring(self, suite: Suite, rubric: Rubric) -> Scoring:
        """The task's own number per arm, each item counting for how far it moves it."""
        return Scoring(suite, None, self.name, warnings=self.task.warnings, arm_column=self._column)

    def _column(self, verdicts: Sequence[Verdict | None]) -> ScoreColumn:
        values = [self._values[v.case_id] for v in verdicts if v is not None]
        numbers = tuple(item_values(self.task, values).tolist())
        is_share = self.task.best == 1 and all(map(_is_share, values))
        return ScoreColumn(numbers, rate=self.task.aggregate(values), is_share=is_share)


def item_values(task: CapabilityTask, values: Sequence[Any]) -> Floats:
    """One number per item from lm-eval's values of the measure, whose mean is the task's number.

    The item's own score where the task takes their mean; else how far the item moves the number:
    its jackknife pseudo-value (Efron & Stein 1981, Annals of Statistics 9:586), shifted as a whole
    so that the mean is the task's number to the last digit.
    """
    values = list(values)
    whole = task.aggregate(values)
    if all(isinstance(value, Real) for value in values):
        numbers_N = np.array([float(value) for value in values])
        if np.isclose(numbers_N.mean(), whole, rtol=1e-12, atol=1e-12):
            return numbers_N
    if len(values) == 1:
        return np.array([whole])
    without_N = np.array([task.aggregate(values[:n] + values[n + 1 :]) for n in range(len(values))])
    return np.asarray(whole + (len(values) - 1) * (without_N.mean() - without_N))


def _is_share(value: Any) -> bool:
    """Whether the score is a number from 0 to 1, or a list of what was and was not followed."""
    if isinstance(value, list):
        return all(isinstance(part, bool) for part in value)
    return isinstance(value, Real) and 0 <= float(value) <= 1


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(part) for part in value) + "]"
    return f"{float(value):g}" if isinstance(value, Real) else str(value)
