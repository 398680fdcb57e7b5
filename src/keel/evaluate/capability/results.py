"""From lm-eval's scores to rates, differences and intervals, as for every other suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from numbers import Real
from typing import Any

import numpy as np

from keel.evaluate.capability.tasks import CapabilityTask, Score
from keel.evaluate.running import case_of
from keel.evaluate.summary import ArmAnswers, SummarySettings, summarise_arms
from keel.statistics import Floats
from keel.types import (
    UNSTEERED,
    Answered,
    ArmResult,
    EvalResult,
    Item,
    Rubric,
    Suite,
    Verdict,
)

JUDGE = "lm-eval"
"""Under this name scores are kept as verdicts."""


def task_verdicts(
    task: CapabilityTask, items: Sequence[Item], answers: Sequence[Answered]
) -> list[Verdict]:
    """lm-eval's score of every answer: the measure that is reported, and all others in words."""
    by_id = {answer.item_id: answer for answer in answers}
    found = []
    for item, score in zip(items, task.score(answers), strict=True):
        told = "; ".join(f"{name} {_plain(value)}" for name, value in score.values.items())
        number = _number(score.values[task.key])
        found.append(Verdict(case_of(item, by_id[item.id]).id, f"{number:g}", number, reason=told))
    return found


def task_result(
    task: CapabilityTask,
    items: Sequence[Item],
    arms: Sequence[ArmAnswers],
    *,
    facts: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    seed: int = 0,
) -> EvalResult:
    """The task's number under each arm, with intervals and tests, item by item.

    Where the number is not the mean of its items', each item counts for how far it moves it.
    """
    told, verdicts = [], {}
    for arm in arms:
        answers = [_told_apart(one) for one in _ordered(arm.answers, items)]
        told.append(replace(arm, answers=tuple(answers)))
        values_N = item_values(task, task.score(arm.answers))
        for item, answer, value in zip(items, answers, values_N.tolist(), strict=True):
            case = case_of(item, answer).id
            verdicts[case] = Verdict(case, f"{value:g}", value)
    found = summarise_arms(
        _suite(task, items),
        told,
        verdicts,
        rubric=_SCALE,
        judge=f"{JUDGE} {version('lm_eval')}",
        settings=SummarySettings(
            seed=seed, facts=facts or {}, warnings=(*warnings, *task.warnings, *_idle(arms))
        ),
    )
    finished = [_finished(one, task, arm) for one, arm in zip(found.arms, arms, strict=True)]
    return replace(found, rubric="", arms=tuple(finished))


def item_values(task: CapabilityTask, scores: Sequence[Score]) -> Floats:
    """One number per item, whose mean is the task's number.

    The item's own score where the task takes their mean; else how far the item moves the number:
    its jackknife pseudo-value (Efron & Stein 1981, Annals of Statistics 9:586), shifted as a whole
    so that the mean is the task's number to the last digit.
    """
    values = [score.values[task.key] for score in scores]
    whole = task.aggregate(values)
    if all(isinstance(value, Real) for value in values):
        numbers_N = np.array([float(value) for value in values])
        if np.isclose(numbers_N.mean(), whole, rtol=1e-12, atol=1e-12):
            return numbers_N
    if len(values) == 1:
        return np.array([whole])
    without_N = np.array([task.aggregate(values[:n] + values[n + 1 :]) for n in range(len(values))])
    return np.asarray(whole + (len(values) - 1) * (without_N.mean() - without_N))


_SCALE = Rubric("score", 1, "scored by the task", low=0, high=1)
"""What a summary asks for; no judge reads it."""


def _suite(task: CapabilityTask, items: Sequence[Item]) -> Suite:
    return Suite(
        name=task.name,
        items=tuple(items),
        rubric=_SCALE.name,
        measure=task.measure,
        counted=(),
        is_higher_better=task.is_higher_better,
    )


def _told_apart(answer: Answered) -> Answered:
    """The same words under two arms can count differently, beside other answers."""
    return replace(answer, text=f"{answer.arm}: {answer.text}")


def _idle(arms: Sequence[ArmAnswers]) -> list[str]:
    """Arms that changed no answer: they show nothing, or were not applied."""
    texts = {arm.name: {a.item_id: a.text for a in arm.answers} for arm in arms}
    return [
        f"arm {name!r} changed not one answer: it is too weak to be told from doing nothing"
        for name, given in texts.items()
        if name != UNSTEERED and given == texts.get(UNSTEERED)
    ]


def _ordered(answers: Sequence[Answered], items: Sequence[Item]) -> list[Answered]:
    by_id = {answer.item_id: answer for answer in answers}
    return [by_id[item.id] for item in items]


def _finished(result: ArmResult, task: CapabilityTask, arm: ArmAnswers) -> ArmResult:
    """The task's own number to the last digit, its interval within what a share can be where it is
    one; no length where nothing was generated."""
    values = [score.values[task.key] for score in task.score(arm.answers)]
    rate = replace(result.rate, value=task.aggregate(values))
    if all(map(_is_share, values)):
        rate = replace(rate, low=max(rate.low, 0.0), high=min(rate.high, 1.0))
    lengths = result.mean_tokens if any(answer.tokens for answer in arm.answers) else None
    return replace(result, rate=rate, mean_tokens=lengths)


def _number(value: Any) -> float:
    """An item's score as one number: of several, such as an item's instructions, their mean."""
    return float(np.mean(_parts(value)))


def _parts(value: Any) -> list[float]:
    parts = value if isinstance(value, list | tuple) else [value]
    return [float(part) for part in parts]


def _is_share(value: Any) -> bool:
    """Whether the score is a number from 0 to 1, or a list of what was and was not followed."""
    if isinstance(value, list):
        return all(isinstance(part, bool) for part in value)
    return isinstance(value, Real) and 0 <= float(value) <= 1


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(part) for part in value) + "]"
    return f"{float(value):g}" if isinstance(value, Real) else str(value)
