"""What an evaluation takes, before it is begun."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from keel.evaluate import Answerer, AnsweringPlan, batches_of, cases_of, plan_answers
from keel.judge import PricedGrader
from keel.pipeline.evaluating import Evaluation, begins_anew, left_of
from keel.store import EvaluationFolder, RunFolder
from keel.types import Answered, Grader, Rubric

_WORD = "word "
"""Stands for a token of an answer that is not given yet."""


def price_evaluation(
    answerer: Answerer,
    folder: RunFolder,
    asked: Evaluation,
    *,
    judged_by: tuple[Grader, Rubric] | None = None,
    measure: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """What an evaluation would take, at the most, less what is answered already.

    The time is that of two short batches, drawn out; nothing is kept, and no judge is asked. What
    a judge behind an address costs is told where its prices are known. Raises StaleArtifactError
    where it was begun with other inputs; with `overwrite` all of it is priced.
    """
    is_anew = begins_anew(answerer, folder, asked, overwrite=overwrite)
    suite, place = asked.suite, EvaluationFolder(folder, asked.folder_name)
    plan = plan_answers(answerer, suite.items, suite.sampling)
    left = {
        arm.name: batches_of(plan, suite.items, arm.name)
        if is_anew
        else left_of(place, suite, plan, arm.name)
        for arm in asked.arms
    }
    answers = sum(len(plan.batches[n]) for numbers in left.values() for n in numbers)
    first = sum(map(len, plan.first)) * len(asked.arms)
    found: dict[str, Any] = {
        "suite": suite.name,
        "arms": len(asked.arms),
        "items": len(suite.items),
        "answers": answers + first,
        "new tokens, at most": (answers + first) * suite.sampling.max_new_tokens,
        "judge requests, at most": answers,
    }
    batches = sum(map(len, left.values())) + len(plan.first) * len(asked.arms)
    if measure and batches:
        seconds = _batch_seconds(answerer, asked, plan) * batches
        found["minutes of answering, at most"] = round(seconds / 60, 1)
    if judged_by is not None and isinstance(judged_by[0], PricedGrader):
        found |= _judging(judged_by[0], judged_by[1], asked, answers)
    return found


def _judging(
    grader: PricedGrader, rubric: Rubric, asked: Evaluation, answers: int
) -> dict[str, Any]:
    """Tokens and dollars of the judge, were every answer as long as it may be."""
    text = _WORD * asked.suite.sampling.max_new_tokens
    given = [Answered(item.id, "", text, 0, "length") for item in asked.suite.items]
    price = grader.price(cases_of(asked.suite.items, {"": given}), rubric)
    share = answers / max(1, len(given))
    found: dict[str, Any] = {"tokens sent to the judge, at most": round(share * price.tokens.sent)}
    if price.cost_usd is not None and price.most_cost_usd is not None:
        found["judge, dollars"] = round(share * price.cost_usd, 2)
        found["judge, dollars at most"] = round(share * price.most_cost_usd, 2)
    return found


def _batch_seconds(answerer: Answerer, asked: Evaluation, plan: AnsweringPlan) -> float:
    """How long the longest batch takes: its prompts once, then a step per token."""
    items, sampling = asked.suite.items, asked.suite.sampling
    batch = [items[place].conversation for place in plan.batches[0]]
    took = []
    for tokens in (4, 12):
        short = replace(sampling, max_new_tokens=min(tokens, sampling.max_new_tokens))
        began = time.monotonic()
        answerer.answer(batch, asked.arms[-1], short, seed=asked.seed)
        took.append(time.monotonic() - began)
    step = max(0.0, (took[1] - took[0]) / 8)
    prompts = max(0.0, took[0] - 4 * step)
    return 2 * prompts + sampling.max_new_tokens * step
