"""Labels in files (a judge's JSON Lines, a person's CSV), and labelling by hand.

Knows no terminal.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from keel.errors import MissingArtifactError, StorageError, UsageError
from keel.types import Case, Rubric

COLUMNS = ("id", "label", "note")
"""Of a CSV; the note may be missing."""

_COARSE = {"0": "none", "1": "none", "2": "somewhat", "3": "fully"}
"""Scores of a role, and the labels that judgements of rollouts have for them."""


@dataclass(frozen=True)
class LabelFile:
    """The labels that one judge or person gave."""

    name: str
    labels: Mapping[str, str]
    """By the id of the case."""
    confidences: Mapping[str, float]
    left_out: int = 0
    """Lines without a label: unjudged, unparsed, failed, or not labelled yet."""


def read_labels(path: str | Path) -> LabelFile:
    """The labels of a `.jsonl` of verdicts or judgements, or of a CSV with the columns id, label.

    Of one id the last line of a JSONL holds. Raises MissingArtifactError where there is no file,
    UsageError naming what is wrong with it.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MissingArtifactError(
            f"cannot read {path}: {error.strerror}; give a .jsonl of verdicts or a CSV"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    return _from_lines(path, text) if path.suffix == ".jsonl" else _from_csv(path, text)


def comparable_labels(a: LabelFile, b: LabelFile) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Both files' labels; role scores become judgements' labels where only one file has scores.

    A role's 0 and 1 are `none`, 2 is `somewhat`, 3 is `fully`.
    """
    for scored, named in ((a, b), (b, a)):
        scores, names = set(scored.labels.values()), set(named.labels.values())
        if scores and names and scores <= set(_COARSE) and names <= set(_COARSE.values()):
            coarse = {id: _COARSE[label] for id, label in scored.labels.items()}
            return (coarse, named.labels) if scored is a else (named.labels, coarse)
    return a.labels, b.labels


def _from_lines(path: Path, text: str) -> LabelFile:
    labels: dict[str, str] = {}
    confidences: dict[str, float] = {}
    seen: set[str] = set()
    # A line without its end was torn by a kill.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        if not line.strip():
            continue
        id, record = _identified(line, f"{path}, line {number}")
        label = str(record["label"])
        seen.add(id)
        labels.pop(id, None)
        confidences.pop(id, None)
        if record.get("status", "ok") != "ok" or label in ("", "unjudged"):
            continue
        labels[id] = label
        if record.get("confidence") is not None:
            confidences[id] = float(record["confidence"])
    return LabelFile(path.stem, labels, confidences, len(seen) - len(labels))


def _identified(line: str, where: str) -> tuple[str, dict[str, Any]]:
    """The id of a line's case, and the line's record."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: not JSON ({error}); give a file of verdicts") from None
    if not isinstance(record, dict):
        raise UsageError(f"{where}: holds a {type(record).__name__}, expected a verdict {{...}}")
    for key in ("case_id", "rollout_id", "id"):
        if key in record and "label" in record:
            return str(record[key]), record
    raise UsageError(
        f"{where}: has the keys {', '.join(record) or 'none'}, expected case_id (or rollout_id) "
        "and label; give a file of verdicts or judgements"
    )


def _from_csv(path: Path, text: str) -> LabelFile:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    named = rows.fieldnames or []
    missing = [column for column in COLUMNS[:2] if column not in named]
    if missing:
        raise UsageError(
            f"{path} lacks the column {' and '.join(missing)}, it has {', '.join(named) or 'none'};"
            " its first line must be id,label or id,label,note"
        )
    labels: dict[str, str] = {}
    left_out = 0
    for row in rows:
        id, label = (row["id"] or "").strip(), (row["label"] or "").strip()
        if id in labels:
            raise UsageError(f"{path}, line {rows.line_num}: id {id!r} is there twice; delete one")
        if id and label:
            labels[id] = label
        else:
            left_out += 1
    return LabelFile(path.stem, labels, {}, left_out)


class LabellingSession:
    """Presents cases one by one, and writes their labels to a CSV.

    The order is random, by the seed, so that arms and roles mix; other judges' labels are not
    known here. Each label is on the disk before the next item is shown; a later session with the
    same file goes on with what is left.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        rubric: Rubric,
        path: Path,
        *,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        self.rubric, self.path = rubric, path
        ordered = sorted(cases, key=lambda case: case.id)
        Random(seed).shuffle(ordered)
        self.cases = ordered[:limit]
        if not self.cases:
            raise UsageError("there is nothing to label; give a run or an evaluation with answers")
        self.done = self._known() if path.exists() else {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels to choose from; empty where any whole number of a scale will do."""
        return tuple(label.name for label in self.rubric.labels)

    @property
    def current(self) -> Case | None:
        """The item to be labelled now; None where all are."""
        return next((case for case in self.cases if case.id not in self.done), None)

    @property
    def count_done(self) -> int:
        """Items of this session that have a label."""
        return sum(case.id in self.done for case in self.cases)

    def give(self, label: str, note: str = "") -> None:
        """Label the current item. Raises UsageError for a label that the rubric does not have."""
        case = self.current
        if case is None:
            raise UsageError("every item has its label")
        self._check(label)
        lines = [] if self.path.exists() and self.path.stat().st_size else [COLUMNS]
        _append(self.path, _rows([*lines, (case.id, label, " ".join(note.split()))]))
        self.done[case.id] = label

    def undo(self) -> bool:
        """Take the last label back; False where there is none."""
        if not self.done:
            return False
        rows = self._written()
        self.done.pop(rows[-1][0].strip())
        scratch = self.path.with_name(f".{self.path.name}.tmp")
        scratch.write_text(_rows(rows[:-1]), encoding="utf-8", newline="")
        scratch.replace(self.path)
        return True

    def _check(self, label: str) -> None:
        low, high = self.rubric.low, self.rubric.high
        if self.labels and label not in self.labels:
            raise UsageError(f"label is {label!r}, expected {', '.join(self.labels)}")
        if low is not None and high is not None and label not in map(str, range(low, high + 1)):
            raise UsageError(f"label is {label!r}, expected a whole number from {low} to {high}")

    def _known(self) -> dict[str, str]:
        """Labels of earlier sessions. Raises UsageError for a file that no session wrote."""
        if self._drop_torn() and (head := self._written()[0]) != list(COLUMNS):
            raise UsageError(
                f"{self.path} begins with {','.join(head)!r}, expected {','.join(COLUMNS)!r}; "
                "choose another file with -o"
            )
        known = dict(read_labels(self.path).labels) if self.path.stat().st_size else {}
        for id, label in known.items():
            try:
                self._check(label)
            except UsageError as error:
                raise UsageError(
                    f"{self.path} holds labels of another rubric ({id}: {error}); choose another "
                    "file with -o"
                ) from None
        return known

    def _written(self) -> list[list[str]]:
        with self.path.open(encoding="utf-8-sig", newline="") as handle:
            return [row for row in csv.reader(handle) if row]

    def _drop_torn(self) -> bool:
        """Cut off a last line that a kill left without its cells; True where any line is left."""
        text = self.path.read_text(encoding="utf-8-sig")
        whole, _, last = text.rpartition("\n")
        if last and len(next(csv.reader([last]))) < len(COLUMNS):
            self.path.write_text(f"{whole}\n" if whole else "", encoding="utf-8", newline="")
            return bool(whole)
        return bool(text)


def _rows(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _append(path: Path, text: str) -> None:
    """Add whole lines, on the disk when done; a line torn by a kill is ended first."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as handle:
            if handle.seek(0, os.SEEK_END):
                handle.seek(-1, os.SEEK_END)
                if handle.read(1) != b"\n":
                    handle.write(b"\n")
            handle.write(text.encode())
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise StorageError(f"could not write {path}: {error}; choose another file") from error
