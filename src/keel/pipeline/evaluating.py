"""A suite under several arms: answered, judged, summed up, kept in the run.

lm-eval's tasks are evaluated in the same way, by an answerer and a grader of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import chain
from operator import add
from typing import Any

from keel.evaluate import (
    AnsweringPlan,
    Arm,
    ArmAnswers,
    Evaluation,
    SummarySettings,
    answer_first,
    answer_items,
    batches_of,
    cases_of,
    extend_plan,
    plan_answers,
    summarise_arms,
)
from keel.judge import stop_if_judge_fails
from keel.pipeline.progress import Counter, OnProgress, silent
from keel.steering import Firing
from keel.store import ArmRecord, EvaluationFolder, EvaluationPlan, Moved, Run, RunFolder
from keel.types import Answered, Case, EvalResult, Item, Scoring, Verdict

_SAVE_EVERY_S = 0.5
_WORD = "word "
"""Stands for a token of an answer that is not given yet."""


def evaluate(
    folder: RunFolder,
    evaluation: Evaluation,
    *,
    overwrite: bool = False,
    on_progress: OnProgress = silent,
) -> EvalResult:
    """The suite's items answered under every arm, judged, and summed up with what they show.

    Goes on where an interrupted call stopped, to the same result. Arms that an earlier call
    answered are part of the result; only what is missing is answered and judged. Of a suite that
    has grown, as by a larger limit, only the new items are answered, in batches of their own.
    Raises StaleArtifactError when the evaluation was begun with other inputs or an arm did
    something else; with `overwrite` that is done anew. Raises JudgeError where too many answers
    cannot be judged.
    """
    kept = EvaluationFolder(folder, evaluation.folder_name)
    with folder.lock():
        # What would stop the judge shows before hours of answering.
        evaluation.grader.grade((), evaluation.rubric)
        plan = _begin(kept, evaluation, overwrite=overwrite)
        for arm in evaluation.arms:
            if not _missing(kept, evaluation, plan, arm.name):
                continue
            kept.begin_arm(_record(kept, evaluation, arm))
            counter = _counter(kept, evaluation, plan, arm, on_progress)
            tell = partial(counter.add, 1)
            done = kept.committed(arm.name, "first")
            for first in answer_first(evaluation, arm, plan, done=done, on_answer=tell):
                kept.commit_first(arm.name, first.number, first.answers)
            done, firsts = kept.committed(arm.name), kept.first_answers(arm.name)
            batches = answer_items(evaluation, arm, plan, done=done, first=firsts, on_answer=tell)
            for batch in batches:
                firing = batch.firing or Firing({}, {})
                moved = Moved(dict(firing.fired), dict(firing.slots))
                kept.commit(arm.name, batch.number, batch.answers, moved)
                counter.reach(_answered(kept, plan, arm))
        arms = _complete_arms(kept, evaluation, plan)
        verdicts = _judge(kept, evaluation, arms, on_progress)
        on_progress("drawing anew for intervals", 0, 1)
        scoring = evaluation.grader.scoring(evaluation.suite, evaluation.rubric)
        settings = _summary_settings(folder.read(), kept, evaluation, plan, scoring)
        result = summarise_arms(scoring, arms, verdicts, settings)
        kept.save_result(result)
        on_progress("drawing anew for intervals", 1, 1)
        return result


def check_begun(folder: RunFolder, evaluation: Evaluation, *, overwrite: bool = False) -> bool:
    """Whether answers that are kept under its name belong to this evaluation.

    False where there are none; or where they belong to another one, which `overwrite` allows to
    drop, and which raises StaleArtifactError without it. Arms are not looked at.
    """
    return _is_begun(EvaluationFolder(folder, evaluation.folder_name), evaluation, overwrite)


def price_evaluation(
    folder: RunFolder, evaluation: Evaluation, *, measure: bool = True, overwrite: bool = False
) -> dict[str, Any]:
    """What an evaluation would take, at the most, less what is answered already.

    The time is that of two short batches, drawn out, where the answerer can be timed; nothing is
    kept, and no judge is called. What a judge costs is part of it where its prices are known.
    Raises StaleArtifactError where it was begun with other inputs; with `overwrite` all of it is
    priced.
    """
    kept = EvaluationFolder(folder, evaluation.folder_name)
    is_begun = _is_begun(kept, evaluation, overwrite)
    plan = _plan(kept, evaluation) if is_begun else _new_plan(evaluation)
    items, sampling = evaluation.suite.items, evaluation.suite.sampling
    batches = [
        batch
        for arm in evaluation.arms
        for batch in (
            *(plan.batches[n] for n in _missing(kept, evaluation, plan, arm.name, is_begun)),
            *plan.first,
        )
    ]
    answers = sum(map(len, batches))
    judged = answers - sum(map(len, plan.first)) * len(evaluation.arms)
    price: dict[str, Any] = {
        "suite": evaluation.suite.name,
        "arms": len(evaluation.arms),
        "items": len(items),
        "answers": answers,
        "new tokens, at most": answers * sampling.max_new_tokens,
        "judge requests, at most": judged,
    }
    if measure and batches and evaluation.answerer.can_be_timed:
        minutes = _batch_seconds(evaluation, plan) * len(batches) / 60
        price["minutes of answering, at most"] = round(minutes, 1)
    text = _WORD * sampling.max_new_tokens
    longest = [Answered(item.id, "", text, 0, "length") for item in items]
    cases = cases_of(items, {"": longest})
    share = judged / max(1, len(longest))
    for what, amount in evaluation.grader.price_at_most(cases, evaluation.rubric).items():
        price[what] = round(share * amount, 2 if "dollars" in what else None)
    return price


def _is_begun(kept: EvaluationFolder, evaluation: Evaluation, overwrite: bool) -> bool:
    if not kept.is_begun:
        return False
    known = _grown_from(kept, evaluation)
    written = _written(kept, evaluation, known)
    if not overwrite:
        kept.check(written, known)
    return not kept.differences(written, known)


def _grown_from(kept: EvaluationFolder, evaluation: Evaluation) -> Sequence[Item]:
    """The items that were planned before, where all are among the suite's; else the suite's."""
    items = evaluation.suite.items
    if kept.holds(items):
        return items
    known, by_id = kept.items(), {item.id: item for item in items}
    if len(known) < len(items) and all(by_id.get(item.id) == item for item in known):
        return known
    return items


def _written(
    kept: EvaluationFolder,
    evaluation: Evaluation,
    items: Sequence[Item],
    plan: AnsweringPlan = AnsweringPlan(()),
) -> EvaluationPlan:
    """The evaluation of these items as it is written down."""
    suite = evaluation.suite
    if evaluation.procedure is not None:
        settings = dict(evaluation.procedure.settings(items))
    else:
        settings = {
            "suite": suite.name,
            "rubric": suite.rubric,
            "counted": list(suite.counted),
            "sampling": suite.sampling.settings,
            "axis": kept.run.read().manifest.files.get("axis.safetensors", ""),
        }
    return EvaluationPlan(
        identity=evaluation.answerer.identity,
        settings=settings,
        seed=evaluation.seed,
        batches=plan.batches,
        first=plan.first,
        command=evaluation.command,
    )


def _new_plan(evaluation: Evaluation) -> AnsweringPlan:
    suite = evaluation.suite
    return plan_answers(evaluation.answerer, suite.items, suite.sampling)


def _plan(kept: EvaluationFolder, evaluation: Evaluation) -> AnsweringPlan:
    """The plan as it was begun, with batches for items that have come since."""
    suite = evaluation.suite
    plan = AnsweringPlan(kept.plan.batches, kept.plan.first)
    known = _grown_from(kept, evaluation)
    if len(known) == len(suite.items):
        return plan
    return extend_plan(plan, evaluation.answerer, suite.items, suite.sampling, known=known)


def _begin(kept: EvaluationFolder, evaluation: Evaluation, *, overwrite: bool) -> AnsweringPlan:
    """The plan in force, written down; every arm was checked to be the one that it was."""
    items = evaluation.suite.items
    records = [_record(kept, evaluation, arm) for arm in evaluation.arms]
    is_begun = _is_begun(kept, evaluation, overwrite)
    plan = _plan(kept, evaluation) if is_begun else _new_plan(evaluation)
    if overwrite:
        if not is_begun:
            kept.clear()
        known = {arm.name: arm.fingerprint for arm in kept.arms()}
        for record in records:
            if known.get(record.name, record.fingerprint) != record.fingerprint:
                kept.drop_arm(record.name)
    for record in records:
        kept.check_arm(record)
    written = _written(kept, evaluation, items, plan)
    if is_begun and not kept.holds(items):
        kept.extend(written, items)
    else:
        kept.begin(written, items)
    return plan


def _record(kept: EvaluationFolder, evaluation: Evaluation, arm: Arm) -> ArmRecord:
    """The arm as it is written down, after those that were begun before."""
    after = 1 + max((record.index for record in kept.arms()), default=-1)
    return ArmRecord(arm.name, after, evaluation.answerer.fingerprint(arm), arm.note, arm.warnings)


def _missing(
    kept: EvaluationFolder,
    evaluation: Evaluation,
    plan: AnsweringPlan,
    arm: str,
    is_begun: bool = True,
) -> list[int]:
    """Numbers of the batches that an arm has not answered."""
    done = kept.committed(arm) if is_begun else set()
    return [n for n in batches_of(plan, evaluation.suite.items, arm) if n not in done]


def _counter(
    kept: EvaluationFolder,
    evaluation: Evaluation,
    plan: AnsweringPlan,
    arm: Arm,
    on_progress: OnProgress,
) -> Counter:
    """Counts an arm's answers, first ones too; those that are there already are counted."""
    wanted = batches_of(plan, evaluation.suite.items, arm.name)
    total = sum(map(len, plan.first)) + sum(len(plan.batches[n]) for n in wanted)
    counter = Counter(f"answering: {arm.name}", total, on_progress)
    counter.add(_answered(kept, plan, arm))
    return counter


def _answered(kept: EvaluationFolder, plan: AnsweringPlan, arm: Arm) -> int:
    first = sum(len(plan.first[n]) for n in kept.committed(arm.name, "first"))
    return first + sum(len(plan.batches[n]) for n in kept.committed(arm.name))


def _complete_arms(
    kept: EvaluationFolder, evaluation: Evaluation, plan: AnsweringPlan
) -> list[ArmAnswers]:
    """Every arm that has answered all its items, in the order in which they were begun."""
    complete = []
    for arm in kept.arms():
        if not _missing(kept, evaluation, plan, arm.name):
            firings = [Firing(m.fired, m.slots) for m in kept.moved(arm.name) if m.slots]
            firing = reduce(add, firings) if firings else None
            complete.append(ArmAnswers(arm.name, tuple(kept.answers(arm.name)), firing, arm.note))
    return complete


def _judge(
    kept: EvaluationFolder,
    evaluation: Evaluation,
    arms: Sequence[ArmAnswers],
    on_progress: OnProgress,
) -> dict[str, Verdict]:
    """All verdicts by case, of which only missing ones are asked for; kept on the way.

    A judge that gave no reply is asked again, and one that grades all cases together grades all.
    Raises JudgeError where too many verdicts, those of earlier calls too, are of no use.
    """
    grader, rubric = evaluation.grader, evaluation.rubric
    name = grader.verdicts_name(rubric)
    cases = cases_of(evaluation.suite.items, {arm.name: arm.answers for arm in arms})
    known = kept.verdicts(name)
    usable = {} if grader.needs_all else known
    old = [usable[c.id] for c in cases if c.id in usable and usable[c.id].status != "failed"]
    judged = {verdict.case_id for verdict in old}
    new: list[Case] = [case for case in cases if case.id not in judged]
    counter = Counter("judging", len(cases), on_progress)
    counter.add(len(old))
    fresh = grader.grade(new, rubric) if new else iter(())
    for verdict in stop_if_judge_fails(chain(old, _saved(kept, name, fresh, known))):
        if verdict.case_id not in judged:
            counter.add(1)
    return kept.verdicts(name)


def _saved(
    kept: EvaluationFolder, name: str, verdicts: Iterator[Verdict], known: dict[str, Verdict]
) -> Iterator[Verdict]:
    """The verdicts, saved on the way, so that none is lost whatever stops the judge."""
    waiting: list[Verdict] = []
    saved_at = time.monotonic()
    try:
        for verdict in verdicts:
            if known.get(verdict.case_id) != verdict:
                waiting.append(verdict)
            if waiting and time.monotonic() - saved_at > _SAVE_EVERY_S:
                kept.append_verdicts(name, waiting)
                waiting, saved_at = [], time.monotonic()
            yield verdict
    finally:
        if waiting:
            kept.append_verdicts(name, waiting)
        close = getattr(verdicts, "close", None)
        if close is not None:
            close()


def _summary_settings(
    run: Run,
    kept: EvaluationFolder,
    evaluation: Evaluation,
    plan: AnsweringPlan,
    scoring: Scoring,
) -> SummarySettings:
    """How the result is computed, and its facts and warnings."""
    sampling, procedure = evaluation.suite.sampling, evaluation.procedure
    if procedure is not None:
        how = {**procedure.facts, "batch size": str(max(map(len, plan.batches)))}
    else:
        words = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, at most"
        how = {"sampling": f"{words} {sampling.max_new_tokens} tokens"}
    facts = {
        "model": kept.plan.identity.model_id,
        "items": str(len(evaluation.suite.items)),
        **how,
        "seed": str(evaluation.seed),
        **evaluation.facts,
        **scoring.facts,
    }
    arms = kept.arms()
    warnings = [*evaluation.warnings, *(warning for arm in arms for warning in arm.warnings)]
    warnings += [
        f"arm {arm.name!r} is not answered in full yet, and left out; evaluate it again"
        for arm in arms
        if _missing(kept, evaluation, plan, arm.name)
    ]
    in_gaps = None
    if run.has_map and float(run.axis.gap[run.axis.layer]) > 0:
        axis = run.axis
        in_gaps = lambda raw: axis.in_gaps(raw, axis.layer)  # noqa: E731
    return SummarySettings(
        seed=evaluation.seed,
        in_gaps=in_gaps,
        facts=facts,
        warnings=(*warnings, *scoring.warnings),
    )


def _batch_seconds(evaluation: Evaluation, plan: AnsweringPlan) -> float:
    """How long the longest batch takes: its prompts once, then a step per token."""
    items, sampling = evaluation.suite.items, evaluation.suite.sampling
    batch = [replace(items[n].conversation, id=items[n].id) for n in plan.batches[0]]
    seconds = []
    for tokens in (4, 12):
        short = replace(sampling, max_new_tokens=min(tokens, sampling.max_new_tokens))
        began = time.monotonic()
        evaluation.answerer.answer(batch, evaluation.arms[-1], short, seed=evaluation.seed)
        seconds.append(time.monotonic() - began)
    step_s = max(0.0, (seconds[1] - seconds[0]) / 8)
    prompts_s = max(0.0, seconds[0] - 4 * step_s)
    return 2 * prompts_s + sampling.max_new_tokens * step_s
