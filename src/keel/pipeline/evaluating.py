"""A suite under several arms: answered, judged, summed up, kept in the run.

lm-eval's tasks are evaluated in the same way, by an answerer and a grader of their own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
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
from keel.pipeline.progress import Counter, OnProgress, saved_on_the_way, silent
from keel.steering import Firing
from keel.store import ArmRecord, EvaluationFolder, EvaluationPlan, Moved, RunFolder
from keel.types import Answered, EvalResult, Item, Scoring, Verdict

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
    job = _EvaluationJob(folder, evaluation)
    with folder.lock():
        # What would stop the judge shows before hours of answering.
        evaluation.grader.grade((), evaluation.rubric)
        job.begin(overwrite=overwrite)
        for arm in evaluation.arms:
            if job.missing(arm.name):
                job.answer(arm, on_progress)
        arms = job.complete_arms()
        verdicts = job.judge(arms, on_progress)
        on_progress("drawing anew for intervals", 0, 1)
        scoring = evaluation.grader.scoring(evaluation.suite, evaluation.rubric)
        result = summarise_arms(scoring, arms, verdicts, job.summary_settings(scoring))
        job.kept.save_result(result)
        on_progress("drawing anew for intervals", 1, 1)
        return result


def check_begun(folder: RunFolder, evaluation: Evaluation, *, overwrite: bool = False) -> bool:
    """Whether answers that are kept under its name belong to this evaluation.

    False where there are none; or where they belong to another one, which `overwrite` allows to
    drop, and which raises StaleArtifactError without it. Arms are not looked at.
    """
    return _EvaluationJob(folder, evaluation).take_up(overwrite)


def price_evaluation(
    folder: RunFolder, evaluation: Evaluation, *, measure: bool = True, overwrite: bool = False
) -> dict[str, Any]:
    """What an evaluation would take, at the most, less what is answered already.

    The time is that of two short batches, drawn out, where the answerer can be timed; nothing is
    kept, and no judge is called. What a judge costs is part of it where its prices are known.
    Raises StaleArtifactError where it was begun with other inputs; with `overwrite` all of it is
    priced.
    """
    job = _EvaluationJob(folder, evaluation)
    is_begun = job.take_up(overwrite)
    job.make_plan(is_begun)
    items, sampling, first = evaluation.suite.items, evaluation.suite.sampling, job.plan.first
    batches = [
        batch
        for arm in evaluation.arms
        for batch in (*(job.plan.batches[n] for n in job.missing(arm.name, is_begun)), *first)
    ]
    answers = sum(map(len, batches))
    judged = answers - sum(map(len, first)) * len(evaluation.arms)
    price: dict[str, Any] = {
        "suite": evaluation.suite.name,
        "arms": len(evaluation.arms),
        "items": len(items),
        "answers": answers,
        "new tokens, at most": answers * sampling.max_new_tokens,
        "judge requests, at most": judged,
    }
    if measure and batches and evaluation.answerer.can_be_timed:
        minutes = _batch_seconds(evaluation, job.plan) * len(batches) / 60
        price["minutes of answering, at most"] = round(minutes, 1)
    text = _WORD * sampling.max_new_tokens
    longest = [Answered(item.id, "", text, 0, "length") for item in items]
    cases = cases_of(items, {"": longest})
    share = judged / max(1, len(longest))
    for what, amount in evaluation.grader.price_at_most(cases, evaluation.rubric).items():
        price[what] = round(share * amount, 2 if "dollars" in what else None)
    return price


class _EvaluationJob:
    """One evaluation, and what is kept of it in a run."""

    def __init__(self, folder: RunFolder, evaluation: Evaluation) -> None:
        self.folder, self.evaluation = folder, evaluation
        self.kept = EvaluationFolder(folder, evaluation.folder_name)
        self.suite, self.items = evaluation.suite, evaluation.suite.items
        self.plan = AnsweringPlan(())
        """Empty until it is made."""

    def take_up(self, overwrite: bool) -> bool:
        """Whether what is kept belongs to this evaluation; raises as `check_begun`."""
        if not self.kept.is_begun:
            return False
        known = self._known_items()
        written = self._written(known)
        if not overwrite:
            self.kept.check(written, known)
        return not self.kept.differences(written, known)

    def make_plan(self, is_begun: bool) -> None:
        """Plan anew, or as it was begun, with batches for items that have come since."""
        answerer, sampling = self.evaluation.answerer, self.suite.sampling
        if not is_begun:
            self.plan = plan_answers(answerer, self.items, sampling)
            return
        self.plan = AnsweringPlan(self.kept.plan.batches, self.kept.plan.first)
        known = self._known_items()
        if len(known) != len(self.items):
            self.plan = extend_plan(self.plan, answerer, self.items, sampling, known=known)

    def begin(self, *, overwrite: bool) -> None:
        """Write down the plan in force, after checking that every arm is the one that it was."""
        kept = self.kept
        records = [self._record(arm) for arm in self.evaluation.arms]
        is_begun = self.take_up(overwrite)
        self.make_plan(is_begun)
        if overwrite:
            if not is_begun:
                kept.clear()
            known = {arm.name: arm.fingerprint for arm in kept.arms()}
            for record in records:
                if known.get(record.name, record.fingerprint) != record.fingerprint:
                    kept.drop_arm(record.name)
        for record in records:
            kept.check_arm(record)
        write = kept.extend if is_begun and not kept.holds(self.items) else kept.begin
        write(self._written(self.items), self.items)

    def missing(self, arm: str, is_begun: bool = True) -> list[int]:
        """Numbers of the batches that an arm has not answered."""
        done = self.kept.committed(arm) if is_begun else set()
        return [n for n in batches_of(self.plan, self.items, arm) if n not in done]

    def answer(self, arm: Arm, on_progress: OnProgress) -> None:
        """Answer the arm's missing batches, and keep each; progress counts those kept before."""
        kept, plan, name = self.kept, self.plan, arm.name
        kept.begin_arm(self._record(arm))
        batches = (*plan.first, *(plan.batches[n] for n in batches_of(plan, self.items, name)))
        counter = Counter(f"answering: {name}", sum(map(len, batches)), on_progress)

        def count_kept() -> None:
            first = sum(len(plan.first[n]) for n in kept.committed(name, "first"))
            counter.reach(first + sum(len(plan.batches[n]) for n in kept.committed(name)))

        count_kept()
        tell = partial(counter.add, 1)
        done = kept.committed(name, "first")
        for first in answer_first(self.evaluation, arm, plan, done=done, on_answer=tell):
            kept.commit_first(name, first.number, first.answers)
        done, firsts = kept.committed(name), kept.first_answers(name)
        for batch in answer_items(
            self.evaluation, arm, plan, done=done, first=firsts, on_answer=tell
        ):
            firing = batch.firing or Firing({}, {})
            moved = Moved(dict(firing.fired), dict(firing.slots))
            kept.commit(name, batch.number, batch.answers, moved)
            count_kept()

    def complete_arms(self) -> list[ArmAnswers]:
        """Every arm that has answered all its items, in the order in which they were begun."""
        complete = []
        for arm in self.kept.arms():
            if not self.missing(arm.name):
                firings = [Firing(m.fired, m.slots) for m in self.kept.moved(arm.name) if m.slots]
                firing = reduce(add, firings) if firings else None
                answers = tuple(self.kept.answers(arm.name))
                complete.append(ArmAnswers(arm.name, answers, firing, arm.note, arm.match))
        return complete

    def judge(self, arms: Sequence[ArmAnswers], on_progress: OnProgress) -> dict[str, Verdict]:
        """All verdicts by case, of which only missing ones are asked for; kept on the way.

        A judge that gave no reply is asked again, and one that grades all cases together grades
        all. Raises JudgeError where too many verdicts, those of earlier calls too, are of no use.
        """
        grader, rubric = self.evaluation.grader, self.evaluation.rubric
        name = grader.verdicts_name(rubric)
        cases = cases_of(self.items, {arm.name: arm.answers for arm in arms})
        known = self.kept.verdicts(name)
        usable = {} if grader.needs_all else known
        old = [usable[c.id] for c in cases if c.id in usable and usable[c.id].status != "failed"]
        judged = {verdict.case_id for verdict in old}
        new = [case for case in cases if case.id not in judged]
        counter = Counter("judging", len(cases), on_progress)
        counter.add(len(old))

        def save(verdicts: list[Verdict]) -> None:
            if changed := [v for v in verdicts if known.get(v.case_id) != v]:
                self.kept.append_verdicts(name, changed)

        fresh = saved_on_the_way(grader.grade(new, rubric) if new else (), save)
        with closing(fresh):
            for verdict in stop_if_judge_fails(chain(old, fresh)):
                if verdict.case_id not in judged:
                    counter.add(1)
        return self.kept.verdicts(name)

    def summary_settings(self, scoring: Scoring) -> SummarySettings:
        """How the result is computed, and its facts and warnings."""
        evaluation, sampling = self.evaluation, self.suite.sampling
        if evaluation.procedure is not None:
            batch_size = str(max(map(len, self.plan.batches)))
            how = {**evaluation.procedure.facts, "batch size": batch_size}
        else:
            words = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, at most"
            how = {"sampling": f"{words} {sampling.max_new_tokens} tokens"}
        facts = {
            "model": self.kept.plan.identity.model_id,
            "items": str(len(self.items)),
            **how,
            "seed": str(evaluation.seed),
            **evaluation.facts,
            **scoring.facts,
        }
        arms = self.kept.arms()
        warnings = [*evaluation.warnings, *(warning for arm in arms for warning in arm.warnings)]
        warnings += [
            f"arm {arm.name!r} is not answered in full yet, and left out; evaluate it again"
            for arm in arms
            if self.missing(arm.name)
        ]
        run, in_gaps = self.folder.read(), None
        if run.has_axis and float(run.axis.gap[run.axis.layer]) > 0:
            in_gaps = partial(run.axis.in_gaps, layer=run.axis.layer)
        return SummarySettings(
            in_gaps=in_gaps,
            facts=facts,
            warnings=(*warnings, *scoring.warnings),
        )

    def _known_items(self) -> Sequence[Item]:
        """The items planned before, where all are among the suite's; else the suite's."""
        if self.kept.holds(self.items):
            return self.items
        known, by_id = self.kept.items(), {item.id: item for item in self.items}
        is_grown = all(by_id.get(item.id) == item for item in known)
        return known if len(known) < len(self.items) and is_grown else self.items

    def _written(self, items: Sequence[Item]) -> EvaluationPlan:
        """The evaluation of these items as it is written down."""
        evaluation, suite = self.evaluation, self.suite
        if evaluation.procedure is not None:
            settings = dict(evaluation.procedure.settings(items))
        else:
            settings = {
                "suite": suite.name,
                "rubric": suite.rubric,
                "counted": list(suite.counted),
                "sampling": suite.sampling.settings,
                "axis": self.folder.read().manifest.files.get("axis.safetensors", ""),
            }
        return EvaluationPlan(
            identity=evaluation.answerer.identity,
            settings=settings,
            seed=evaluation.seed,
            batches=self.plan.batches,
            first=self.plan.first,
            command=evaluation.command,
        )

    def _record(self, arm: Arm) -> ArmRecord:
        """The arm as it is written down, after those that were begun before."""
        after = 1 + max((record.index for record in self.kept.arms()), default=-1)
        fingerprint = self.evaluation.answerer.fingerprint(arm)
        return ArmRecord(arm.name, after, fingerprint, arm.note, arm.warnings, arm.match)


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
