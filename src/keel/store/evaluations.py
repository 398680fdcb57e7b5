"""Writes one evaluation of a run: items, answers arm by arm, verdicts, and the result.

evaluations/NAME/settings.json                settings, and the plan of batches
                 items.jsonl                  an item per line
                 answers/ARM/arm.json         what the arm does, its fingerprint
                 answers/ARM/first-00000.jsonl   first answers, where items have two turns
                 answers/ARM/batch-00000.jsonl   answers: with this file the batch counts
                 answers/ARM/firing-00000.json   how often tokens were moved in it
                 verdicts/JUDGE.jsonl         a verdict per line, added to as the judge goes
                 result.json                  last
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from keel.errors import MissingArtifactError, StaleArtifactError, UsageError
from keel.store import layout
from keel.store.artefacts import FORMAT, check_format
from keel.store.batches import (
    append_journal,
    batch_path,
    committed_batches,
    read_batches,
    read_journal,
)
from keel.store.files import (
    jsonl,
    read_json,
    read_jsonl,
    reading,
    sha256_of,
    write_json,
    write_jsonl,
)
from keel.store.folder import RunFolder
from keel.store.provenance import EvaluationPlan, plan_differences, refuse_changed
from keel.store.records import from_record, to_record
from keel.types import Answered, ControlMatch, EvalResult, FirstAnswer, Item, Verdict

T = TypeVar("T")
Turn = Literal["first", "batch"]

SETTINGS, ITEMS, ANSWERS = "settings.json", "items.jsonl", "answers"


@dataclass(frozen=True)
class ArmRecord:
    """Identity of an arm at the time of its answers."""

    name: str
    index: int = field(metadata={"key": "place"})
    """Its number among the evaluation's arms, in the order in which they were begun."""
    fingerprint: str
    note: str = ""
    warnings: tuple[str, ...] = ()
    """Reasons not to rely on the arm."""
    match: ControlMatch | None = None
    """Of a cap's control, how it pushes beside the cap; old records lack it."""


@dataclass(frozen=True)
class Moved:
    """Tokens moved, and tokens in all, per layer; empty where the arm has no floor or ceiling."""

    fired: dict[int, int] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)


class EvaluationFolder:
    """Writes and reads one evaluation of a run. Hold the run's lock while writing."""

    def __init__(self, run: RunFolder, name: str) -> None:
        self.run = run
        self.name = name
        self.inside = f"{layout.EVALUATIONS}/{name}"
        """Its folder's path inside the run folder."""
        self.path = run.path / self.inside
        if layout.plain_name(name) != name or not name:
            raise UsageError(
                f"an evaluation cannot be called {name!r}; use letters, digits, dots and dashes"
            )

    @property
    def is_begun(self) -> bool:
        """Whether settings stand in the folder."""
        return (self.path / SETTINGS).exists()

    @property
    def is_finished(self) -> bool:
        """Whether the result, written last, is there and listed by the run."""
        return f"{self.inside}/{layout.RESULT}" in self.run.read().manifest.files

    def begin(self, plan: EvaluationPlan, items: Sequence[Item]) -> EvaluationPlan:
        """Write plan and items, or go on with those that are there; returns the plan that holds.

        Raises StaleArtifactError, saying what differs, when it was begun with other inputs.
        """
        if self.is_begun:
            self.check(plan, items)
            # After a kill while items were added the settings name items that are not there.
            if sha256_of(self.path / ITEMS) != _hash_of(items):
                write_jsonl(self.path / ITEMS, map(to_record, items))
            return self.plan
        write_jsonl(self.path / ITEMS, map(to_record, items))
        self._write_settings(plan, items)
        return plan

    def extend(self, plan: EvaluationPlan, items: Sequence[Item]) -> None:
        """Replace plan and items by ones that hold all of the old, each batch under its number."""
        self._reopen()
        self._write_settings(plan, items)
        write_jsonl(self.path / ITEMS, map(to_record, items))

    def holds(self, items: Sequence[Item]) -> bool:
        """Whether the evaluation is of exactly these items."""
        return self.is_begun and self._settings()[1] == _hash_of(items)

    def check(self, plan: EvaluationPlan, items: Sequence[Item]) -> None:
        """Raise StaleArtifactError, saying what differs, when it was begun with other inputs."""
        refuse_changed(
            f"evaluation {self.name!r} in {self.run.path}",
            self.differences(plan, items),
            "choose another name with --name, or start it over with --overwrite",
        )

    def differences(self, plan: EvaluationPlan, items: Sequence[Item]) -> list[str]:
        """How plan and items differ from those written; nothing where it is not begun."""
        if not self.is_begun:
            return []
        written, items_hash = self._settings()
        changed = plan_differences(_without_limit(written), _without_limit(plan))
        if items_hash != _hash_of(items):
            count = sum(map(len, written.batches))
            other = "fewer: take all again, with --limit" if len(items) < count else "or others"
            changed.append(f"items ({count} → {len(items)}, {other})")
        return changed

    def clear(self) -> None:
        """Delete all of the evaluation."""
        self._reopen()
        # The settings last: a kill in between leaves an evaluation that can be gone on with.
        for name in (ANSWERS, "verdicts", ITEMS, SETTINGS):
            _delete(self.path / name)

    @property
    def plan(self) -> EvaluationPlan:
        """What the evaluation set out to do."""
        return self._settings()[0]

    def items(self) -> tuple[Item, ...]:
        """The items, in the order of the suite."""
        path = self.path / ITEMS
        with reading(path, "an Item per line"):
            return tuple(from_record(Item, record) for record in read_jsonl(path))

    def arms(self) -> tuple[ArmRecord, ...]:
        """Arms begun so far, in that order."""
        arms = [_value(ArmRecord, file) for file in (self.path / ANSWERS).glob("*/arm.json")]
        return tuple(sorted(arms, key=lambda arm: arm.index))

    def begin_arm(self, arm: ArmRecord) -> None:
        """Write down what an arm does. Raises StaleArtifactError when it did something else."""
        self.check_arm(arm)
        self._reopen()
        if arm.name not in {known.name for known in self.arms()}:
            write_json(self._arm(arm.name) / "arm.json", to_record(arm))

    def check_arm(self, arm: ArmRecord) -> None:
        """Raise StaleArtifactError where an arm of that name was begun and did something else."""
        for known in self.arms():
            if known.name == arm.name and known.fingerprint != arm.fingerprint:
                raise StaleArtifactError(
                    f"arm {arm.name!r} of {self.path} was answered with other interventions "
                    f"({known.note or 'none'}) than it would have now ({arm.note or 'none'}); "
                    "choose another name with --name, or redo it with --overwrite"
                )

    def drop_arm(self, name: str) -> None:
        """Delete an arm's answers."""
        self._reopen()
        _delete(self._arm(name))

    def committed(self, arm: str, turn: Turn = "batch") -> set[int]:
        """Numbers of an arm's batches that are done."""
        return set(committed_batches(self._arm(arm), turn))

    def commit(self, arm: str, number: int, answers: Sequence[Answered], moved: Moved) -> None:
        """Keep one batch of answers: whole, or not counted."""
        write_json(batch_path(self._arm(arm), number, "firing", ".json"), to_record(moved))
        write_jsonl(batch_path(self._arm(arm), number), map(to_record, answers))

    def commit_first(self, arm: str, number: int, answers: Sequence[FirstAnswer]) -> None:
        """Keep one batch of first answers: whole, or not counted."""
        write_jsonl(batch_path(self._arm(arm), number, "first"), map(to_record, answers))

    def answers(self, arm: str) -> list[Answered]:
        """An arm's answers so far, in the order of batches."""
        return list(read_batches(self._arm(arm), Answered))

    def first_answers(self, arm: str) -> list[FirstAnswer]:
        """An arm's first answers so far, in the order of batches."""
        return list(read_batches(self._arm(arm), FirstAnswer, "first"))

    def moved(self, arm: str) -> list[Moved]:
        """How often an arm moved tokens, batch by batch."""
        folder = self._arm(arm)
        files = [batch_path(folder, n, "firing", ".json") for n in committed_batches(folder)]
        return [_value(Moved, file) for file in files]

    def append_verdicts(self, judge: str, verdicts: Iterable[Verdict]) -> None:
        """Add verdicts of one judge by one rubric; of one case the last one holds."""
        self._reopen()
        append_journal(self._verdicts(judge), verdicts)

    def verdicts(self, judge: str) -> dict[str, Verdict]:
        """Verdicts by case id. A line torn by a kill is not counted."""
        return {value.case_id: value for value in read_journal(self._verdicts(judge), Verdict)}

    def save_result(self, result: EvalResult) -> None:
        """Keep the result, and list all files of the evaluation in the run's manifest."""
        with self.run.lock():
            self._reopen()
            self.run.write_value(f"{self.inside}/{layout.RESULT}", result)
            self.run.list_below(self.inside)

    def _reopen(self) -> None:
        """Delete the result, which must not stay while the answers under it change."""
        with self.run.lock():
            if (self.path / layout.RESULT).exists():
                self.run.unlist_below(self.inside)
                _delete(self.path / layout.RESULT)

    def _write_settings(self, plan: EvaluationPlan, items: Sequence[Item]) -> None:
        facts = {"format": FORMAT, "kind": "evaluation", "items_sha256": _hash_of(items)}
        write_json(self.path / SETTINGS, {**facts, "plan": to_record(plan)})

    def _settings(self) -> tuple[EvaluationPlan, str]:
        path = self.path / SETTINGS
        if not path.exists():
            raise MissingArtifactError(
                f"{self.run.path} has no evaluation {self.name!r}; make it: keel evaluate "
                f"{self.run.path} SUITE --name {self.name}"
            )
        record = read_json(path)
        with reading(path, "an evaluation's settings"):
            check_format(record, path)
            return from_record(EvaluationPlan, record["plan"]), str(record["items_sha256"])

    def _arm(self, name: str) -> Path:
        return self.path / ANSWERS / layout.plain_name(name)

    def _verdicts(self, judge: str) -> Path:
        return self.path / "verdicts" / f"{layout.plain_name(judge)}.jsonl"


def evaluations_in(run: RunFolder) -> list[EvaluationFolder]:
    """Every evaluation of a run, finished or not, by name."""
    settings = sorted((run.path / layout.EVALUATIONS).glob(f"*/{SETTINGS}"))
    return [EvaluationFolder(run, path.parent.name) for path in settings]


def _without_limit(plan: EvaluationPlan) -> EvaluationPlan:
    """The items tell the limit, and they may have become more."""
    return replace(plan, settings={k: v for k, v in plan.settings.items() if k != "limit"})


def _hash_of(items: Sequence[Item]) -> str:
    return hashlib.sha256(jsonl(map(to_record, items))).hexdigest()


def _value(kind: type[T], path: Path) -> T:
    with reading(path, f"a {kind.__name__}"):
        return from_record(kind, read_json(path))


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
