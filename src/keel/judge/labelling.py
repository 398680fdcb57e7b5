"""Labels in files (a judge's JSON Lines, a person's CSV), and labelling by hand.

Knows no terminal.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from keel.errors import MissingArtifactError, UsageError
from keel.store import write_bytes
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
        rows = self._written()
        if rows and rows[0] != list(COLUMNS):
            raise UsageError(
                f"{path} begins with {','.join(rows[0])!r}, expected {','.join(COLUMNS)!r}; "
                "choose another file with -o"
            )
        self.done = dict(_from_csv(path, _csv_text(rows)).labels) if rows else {}
        for id, label in self.done.items():
            try:
                self._check(label)
            except UsageError as error:
                raise UsageError(
                    f"{path} holds labels of another rubric ({id}: {error}); choose another "
                    "file with -o"
                ) from None

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
        rows = self._written() or [list(COLUMNS)]
        self._write([*rows, [case.id, label, " ".join(note.split())]])
        self.done[case.id] = label

    def undo(self) -> bool:
        """Take the last label back; False where there is none."""
        if not self.done:
            return False
        *rows, last = self._written()
        self._write(rows)
        self.done.pop(last[0].strip())
        return True

    def _check(self, label: str) -> None:
        if label not in (self.labels or map(str, self.rubric.scale)):
            whole_number = f"a whole number from {self.rubric.low} to {self.rubric.high}"
            raise UsageError(
                f"label is {label!r}, expected {', '.join(self.labels) or whole_number}"
            )

    def _written(self) -> list[list[str]]:
        """The file's rows, without a last one that a kill left without its cells."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
        is_torn = bool(rows) and not text.endswith("\n") and len(rows[-1]) < len(COLUMNS)
        return rows[:-1] if is_torn else rows

    def _write(self, rows: Sequence[Sequence[str]]) -> None:
        write_bytes(self.path, _csv_text(rows).encode())


def _csv_text(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
