"""lm-eval's tasks under several arms: answered by the engine, scored by lm-eval, kept in the run.

An evaluation like every other, in a folder called after the task; only who asks and who scores
differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from importlib.metadata import version
from operator import add
from pathlib import Path
from typing import Any

from keel.engines import Engine
from keel.evaluate import Arm, ArmAnswers, EngineAnswerer, ServedAnswerer
from keel.evaluate.capability import (
    JUDGE,
    CapabilitySettings,
    CapabilityTask,
    ChatTaskAnswerer,
    EngineTaskAnswerer,
    TaskAnswerer,
    open_task,
    task_result,
    task_verdicts,
)
from keel.pipeline.progress import Counter, OnProgress, silent
from keel.steering import Firing
from keel.store import ArmRecord, EvaluationFolder, EvaluationPlan, Moved, RunFolder
from keel.types import EvalResult, Item

PAPER_TASKS = ("ifeval", "gsm8k", "mmlu_pro", "eq_bench")
"""The four of the paper."""


@dataclass(frozen=True)
class CapabilityEvaluation:
    """What of one task is to be evaluated."""

    task: str
    """lm-eval's name of a task or of a group, or a YAML file that describes one."""
    arms: tuple[Arm, ...]
    settings: CapabilitySettings = field(default_factory=CapabilitySettings)
    data: Path | None = None
    """A file with the task's items; None takes them from the hub."""
    name: str = ""
    """Under which it is kept; the task's where it has none of its own."""
    warnings: tuple[str, ...] = ()
    command: str = ""
    """What to type to go on after an interruption."""


def evaluate_capability(
    model: Engine | ServedAnswerer,
    folder: RunFolder,
    asked: CapabilityEvaluation,
    *,
    overwrite: bool = False,
    on_progress: OnProgress = silent,
) -> EvalResult:
    """One task's items answered under every arm, scored by lm-eval, and what that shows.

    An engine answers, or a model behind an address; that one only where answers are texts.
    Goes on where an interrupted call stopped, to the same result: batches are planned once, and a
    batch is kept whole or answered again. Raises StaleArtifactError when it was begun with other
    inputs or an arm did something else; with `overwrite` that is done anew.
    """
    held = _task_answerer(model)
    task = open_task(asked.task, asked.settings, data=asked.data)
    items = task.items()
    place = EvaluationFolder(folder, asked.name or task.name)
    with folder.lock():
        work = _Work(held, task, items, place)
        plan = work.begin(asked, overwrite)
        for arm in asked.arms:
            work.answer(arm, plan, on_progress)
        answered = work.answered_arms(plan)
        on_progress(f"scoring {task.name}", 0, 1)
        for told in answered:
            known = place.verdicts(JUDGE)
            scored = task_verdicts(task, items, told.answers)
            place.append_verdicts(JUDGE, [v for v in scored if known.get(v.case_id) != v])
        result = task_result(
            task,
            items,
            answered,
            facts=_facts(held, task, plan, asked),
            warnings=(*asked.warnings, *work.doubts(plan)),
            seed=asked.settings.seed,
        )
        place.save_result(result)
        on_progress(f"scoring {task.name}", 1, 1)
        return result


def price_capability(
    model: Engine | ServedAnswerer,
    folder: RunFolder,
    asked: CapabilityEvaluation,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """What a task would take, at the most, less what is answered already; nothing is kept.

    The time is that of its longest batch, begun and broken off, drawn out; a served model is asked
    nothing for it, and has none. Raises StaleArtifactError where it was begun with other inputs.
    """
    held = _task_answerer(model)
    task = open_task(asked.task, asked.settings, data=asked.data)
    place = EvaluationFolder(folder, asked.name or task.name)
    work = _Work(held, task, task.items(), place)
    if not overwrite:
        place.check(work.planned(asked), work.items)
    is_begun = place.is_begun and not place.differences(work.planned(asked), work.items)
    questions = task.questions(held, asked.arms[0])
    batches = place.plan.batches if is_begun else task.plan(held, questions)
    left = [
        number
        for arm in asked.arms
        for number in (work.left(arm.name, len(batches)) if is_begun else range(len(batches)))
    ]
    answers = sum(len(batches[number]) for number in left)
    longest = max(question.max_new_tokens for question in questions)
    found: dict[str, Any] = {
        "suite": task.name,
        "arms": len(asked.arms),
        "items": len(work.items),
        "answers": answers,
        "new tokens, at most": answers * longest,
    }
    if left and not isinstance(model, ServedAnswerer):
        seconds = task.seconds(held, asked.arms[-1], [questions[n] for n in batches[0]])
        found["minutes of answering, at most"] = round(seconds * len(left) / 60, 1)
    return found


@dataclass(frozen=True)
class _Work:
    """One task on one model, and where its answers are kept."""

    model: TaskAnswerer
    task: CapabilityTask
    items: tuple[Item, ...]
    place: EvaluationFolder

    def begin(self, asked: CapabilityEvaluation, overwrite: bool) -> EvaluationPlan:
        """The plan that holds, and every arm found to be the one that it was."""
        made = self.planned(asked)
        if overwrite:
            self._drop_changed(made, asked.arms)
        if not self.place.is_begun:
            questions = self.task.questions(self.model, asked.arms[0])
            batches = self.task.plan(self.model, questions)
            made = replace(made, batches=batches)
        plan = self.place.begin(made, self.items)
        for number, arm in enumerate(asked.arms):
            self.place.check_arm(self._record(arm, number))
        return plan

    def planned(self, asked: CapabilityEvaluation) -> EvaluationPlan:
        """What is asked, its batches not yet planned."""
        return EvaluationPlan(
            identity=self.model.identity,
            settings=self._settings(asked.settings),
            seed=asked.settings.seed,
            batches=(),
            command=asked.command,
        )

    def answer(self, arm: Arm, plan: EvaluationPlan, on_progress: OnProgress) -> None:
        """What is missing of one arm's answers."""
        left = self.left(arm.name, len(plan.batches))
        if not left:
            return
        self.place.begin_arm(self._record(arm, len(self.place.arms())))
        counter = Counter(f"{self.task.name}: {arm.name}", len(self.items), on_progress)
        counter.add(len(self.items) - sum(len(plan.batches[n]) for n in left))
        questions = self.task.questions(self.model, arm)
        for number, found in self.task.answer(
            self.model, arm, questions, {n: plan.batches[n] for n in left}
        ):
            firing = found.firing if arm.has_bound else None
            moved = Moved() if firing is None else Moved(dict(firing.fired), dict(firing.slots))
            self.place.commit(arm.name, number, found.answers, moved)
            counter.add(len(found.answers))

    def answered_arms(self, plan: EvaluationPlan) -> list[ArmAnswers]:
        """Every arm that has answered all items, in the order in which they were begun."""
        found = []
        for arm in self.place.arms():
            if not self.left(arm.name, len(plan.batches)):
                moved = [Firing(m.fired, m.slots) for m in self.place.moved(arm.name) if m.slots]
                firing = reduce(add, moved) if moved else None
                answers = tuple(self.place.answers(arm.name))
                found.append(ArmAnswers(arm.name, answers, firing, arm.note))
        return found

    def doubts(self, plan: EvaluationPlan) -> list[str]:
        """What speaks against relying on arms, and which are not there."""
        arms = self.place.arms()
        told = [warning for arm in arms for warning in arm.warnings]
        return told + [
            f"arm {arm.name!r} is not answered in full yet, and left out; evaluate it again"
            for arm in arms
            if self.left(arm.name, len(plan.batches))
        ]

    def left(self, arm: str, batches: int) -> list[int]:
        """Numbers of the batches that an arm has not answered."""
        done = self.place.committed(arm)
        return [number for number in range(batches) if number not in done]

    def _settings(self, settings: CapabilitySettings) -> dict[str, Any]:
        """All that decides the answers and their scores."""
        return {
            "suite": self.task.name,
            "lm_eval": version("lm_eval"),
            "task version": self.task.versions,
            "data": self.task.data_hash,
            "limit": settings.limit or "all",
            "chat template": self.task.is_chat(self.model),
            "max_new_tokens": settings.max_new_tokens or "as the task says",
            "batch_size": settings.batch_size or "by memory",
        }

    def _drop_changed(self, made: EvaluationPlan, arms: Sequence[Arm]) -> None:
        if self.place.differences(made, self.items):
            self.place.clear()
        known = {arm.name: arm.fingerprint for arm in self.place.arms()}
        for arm in arms:
            now = self.model.fingerprint(arm)
            if known.get(arm.name, now) != now:
                self.place.drop_arm(arm.name)

    def _record(self, arm: Arm, number: int) -> ArmRecord:
        return ArmRecord(arm.name, number, self.model.fingerprint(arm), arm.note, arm.warnings)


def _task_answerer(model: Engine | ServedAnswerer) -> TaskAnswerer:
    if isinstance(model, ServedAnswerer):
        return ChatTaskAnswerer(model)
    if model.local_model is not None:
        return EngineTaskAnswerer(model)
    return ChatTaskAnswerer(EngineAnswerer(model))


def _facts(
    model: TaskAnswerer,
    task: CapabilityTask,
    plan: EvaluationPlan,
    asked: CapabilityEvaluation,
) -> dict[str, str]:
    """What was asked and how, for people to see."""
    settings = asked.settings
    return {
        "model": model.identity.model_id,
        "items": str(sum(map(len, plan.batches))),
        "task": f"{task.name}, version {task.versions}",
        "examples in the prompt": "0",
        "chat template": "yes" if task.is_chat(model) else "no",
        "answers": f"at most {settings.max_new_tokens} tokens"
        if settings.max_new_tokens
        else "as long as the task allows",
        "batch size": str(max(map(len, plan.batches))),
        "data": "from the hub" if asked.data is None else asked.data.name,
        "seed": str(settings.seed),
    }
