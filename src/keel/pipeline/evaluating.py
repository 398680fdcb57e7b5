"""A suite under several arms: answered, judged, summed up, kept in the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

from keel.evaluate import (
    Answerer,
    AnsweringPlan,
    Arm,
    ArmAnswers,
    SummarySettings,
    answer_first,
    answer_items,
    batches_of,
    cases_of,
    plan_answers,
    summarise_arms,
)
from keel.pipeline.grading import grade_cases, labels_of
from keel.pipeline.progress import Counter, OnProgress, silent
from keel.steering import Firing
from keel.store import (
    ArmRecord,
    EvaluationFolder,
    EvaluationPlan,
    Moved,
    Run,
    RunFolder,
)
from keel.types import EvalResult, Grader, Rubric, Suite, SuiteLabels


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated."""

    suite: Suite
    arms: tuple[Arm, ...]
    name: str = ""
    """Under which it is kept; the suite's where it has none of its own."""
    seed: int = 0
    """Decides every random draw."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Whatever else was asked, for people to see."""
    warnings: tuple[str, ...] = ()
    command: str = ""
    """What to type to go on after an interruption."""

    @property
    def folder_name(self) -> str:
        """The name under which it is kept."""
        return self.name or self.suite.name


def evaluate(
    answerer: Answerer,
    folder: RunFolder,
    asked: Evaluation,
    grader: Grader,
    rubric: Rubric,
    *,
    overwrite: bool = False,
    on_progress: OnProgress = silent,
) -> EvalResult:
    """The suite's items answered under every arm, judged, and summed up with what they show.

    Goes on where an interrupted call stopped, to the same result. Arms that an earlier call
    answered are part of the result; only what is missing is answered and judged. Raises
    StaleArtifactError when the evaluation was begun with other inputs or an arm did something
    else; with `overwrite` that is done anew. Raises JudgeError where too many answers cannot be
    judged.
    """
    place = EvaluationFolder(folder, asked.folder_name)
    with folder.lock():
        grader.grade((), rubric)  # what would stop the judge is found before hours of answering
        plan = _begin(place, answerer, asked, overwrite)
        for arm in asked.arms:
            _answer(place, answerer, asked, arm, plan=plan, on_progress=on_progress)
        arms = _answered_arms(place, asked.suite, plan)
        judge = f"{grader.name}-{rubric.id}"
        cases = cases_of(asked.suite.items, {arm.name: arm.answers for arm in arms})
        grade_cases(place, judge, cases, grader=grader, rubric=rubric, on_progress=on_progress)
        on_progress("drawing anew for intervals", 0, 1)
        labels = labels_of(grader, asked.suite, rubric)
        result = summarise_arms(
            labels.suite,
            arms,
            place.verdicts(judge),
            rubric=labels.rubric,
            judge=grader.name,
            settings=_summary(folder.read(), place, _told(asked, labels), plan),
        )
        place.save_result(result)
        on_progress("drawing anew for intervals", 1, 1)
        return result


def begins_anew(
    answerer: Answerer, folder: RunFolder, asked: Evaluation, *, overwrite: bool = False
) -> bool:
    """Whether what stands under its name was begun with other inputs, and `overwrite` drops it.

    Without `overwrite` that raises StaleArtifactError. Arms are not looked at.
    """
    place = EvaluationFolder(folder, asked.folder_name)
    plan = _plan_of(place, answerer, asked)
    if not overwrite:
        place.check(plan, asked.suite.items)
    return bool(place.differences(plan, asked.suite.items))


def _told(asked: Evaluation, labels: SuiteLabels) -> Evaluation:
    """The same with what is to be said of the labels."""
    return replace(
        asked,
        facts={**asked.facts, **labels.facts},
        warnings=(*asked.warnings, *labels.warnings),
    )


def _begin(
    place: EvaluationFolder, answerer: Answerer, asked: Evaluation, overwrite: bool
) -> AnsweringPlan:
    """The plan that holds, and every arm found to be the one that it was."""
    items, sampling = asked.suite.items, asked.suite.sampling
    records = [_record(answerer, arm, number) for number, arm in enumerate(asked.arms)]
    made = _plan_of(place, answerer, asked)
    if overwrite:
        _drop_changed(place, made, asked, records)
    if not place.is_begun:
        planned = plan_answers(answerer, items, sampling)
        made = replace(made, batches=planned.batches, first=planned.first)
    held = place.begin(made, items)
    for record in records:
        place.check_arm(record)
    return AnsweringPlan(held.batches, held.first)


def _plan_of(place: EvaluationFolder, answerer: Answerer, asked: Evaluation) -> EvaluationPlan:
    """What is asked, its batches not yet planned."""
    return EvaluationPlan(
        identity=answerer.identity,
        settings=_settings(place.run.read(), asked),
        seed=asked.seed,
        batches=(),
        command=asked.command,
    )


def _drop_changed(
    place: EvaluationFolder, made: EvaluationPlan, asked: Evaluation, records: Sequence[ArmRecord]
) -> None:
    if place.differences(made, asked.suite.items):
        place.clear()
    known = {arm.name: arm.fingerprint for arm in place.arms()}
    for record in records:
        if known.get(record.name, record.fingerprint) != record.fingerprint:
            place.drop_arm(record.name)


def _settings(run: Run, asked: Evaluation) -> dict[str, Any]:
    """All that decides the answers and what counts in them."""
    suite = asked.suite
    return {
        "suite": suite.name,
        "rubric": suite.rubric,
        "counted": list(suite.counted),
        "sampling": suite.sampling.settings,
        "axis": run.manifest.files.get("axis.safetensors", ""),
    }


def _record(answerer: Answerer, arm: Arm, number: int) -> ArmRecord:
    return ArmRecord(arm.name, number, answerer.fingerprint(arm), arm.note, arm.warnings)


def _answer(
    place: EvaluationFolder,
    answerer: Answerer,
    asked: Evaluation,
    arm: Arm,
    *,
    plan: AnsweringPlan,
    on_progress: OnProgress,
) -> None:
    """What is missing of one arm's answers."""
    items, sampling = asked.suite.items, asked.suite.sampling
    if not left_of(place, asked.suite, plan, arm.name):
        return
    last = max((one.index for one in place.arms()), default=-1)
    place.begin_arm(_record(answerer, arm, last + 1))
    counter = _counter(place, asked.suite, plan, arm.name, on_progress)
    for found in answer_first(
        answerer,
        items,
        arm,
        plan=plan,
        sampling=sampling,
        seed=asked.seed,
        done=place.committed(arm.name, "first"),
        on_reply=lambda: counter.add(1),
    ):
        place.commit_first(arm.name, found.number, found.answers)
    for batch in answer_items(
        answerer,
        items,
        arm,
        plan=plan,
        sampling=sampling,
        seed=asked.seed,
        done=place.committed(arm.name),
        first=place.first_answers(arm.name),
        on_reply=lambda: counter.add(1),
    ):
        place.commit(arm.name, batch.number, batch.answers, _moved(batch.firing))


def _counter(
    place: EvaluationFolder, suite: Suite, plan: AnsweringPlan, arm: str, on_progress: OnProgress
) -> Counter:
    """Counts an arm's answers, first ones too; those that are there already are counted."""
    wanted = batches_of(plan, suite.items, arm)
    total = sum(map(len, plan.first)) + sum(len(plan.batches[n]) for n in wanted)
    counter = Counter(f"answering: {arm}", total, on_progress)
    counter.add(sum(len(plan.first[n]) for n in place.committed(arm, "first")))
    counter.add(sum(len(plan.batches[n]) for n in place.committed(arm)))
    return counter


def left_of(place: EvaluationFolder, suite: Suite, plan: AnsweringPlan, arm: str) -> list[int]:
    """Numbers of the batches that an arm has not answered."""
    done = place.committed(arm)
    return [number for number in batches_of(plan, suite.items, arm) if number not in done]


def _moved(firing: Firing | None) -> Moved:
    return Moved() if firing is None else Moved(dict(firing.fired), dict(firing.slots))


def _answered_arms(place: EvaluationFolder, suite: Suite, plan: AnsweringPlan) -> list[ArmAnswers]:
    """Every arm that has answered all its items, in the order in which they were begun."""
    found = []
    for arm in place.arms():
        if not left_of(place, suite, plan, arm.name):
            moved = [Firing(m.fired, m.slots) for m in place.moved(arm.name) if m.slots]
            firing = reduce(add, moved) if moved else None
            answers = tuple(place.answers(arm.name))
            found.append(ArmAnswers(arm.name, answers, firing, arm.note))
    return found


def _summary(
    run: Run, place: EvaluationFolder, asked: Evaluation, plan: AnsweringPlan
) -> SummarySettings:
    suite = asked.suite
    facts = {
        "model": place.plan.identity.model_id,
        "items": str(len(suite.items)),
        "sampling": (
            f"temperature {suite.sampling.temperature:g}, top_p {suite.sampling.top_p:g}, at most "
            f"{suite.sampling.max_new_tokens} tokens"
        ),
        "seed": str(asked.seed),
        **asked.facts,
    }
    told = [warning for arm in place.arms() for warning in arm.warnings]
    told += [
        f"arm {arm.name!r} is not answered in full yet, and left out; evaluate it again"
        for arm in place.arms()
        if left_of(place, suite, plan, arm.name)
    ]
    in_gaps = None
    if run.has_map and float(run.axis.gap[run.axis.layer]) > 0:
        axis = run.axis
        in_gaps = lambda raw: axis.in_gaps(raw, axis.layer)  # noqa: E731
    return SummarySettings(
        seed=asked.seed, in_gaps=in_gaps, facts=facts, warnings=(*asked.warnings, *told)
    )
