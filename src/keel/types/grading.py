"""Grading: rubrics, the cases to grade, the verdicts, and the Protocol of graders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from keel.errors import UsageError
from keel.types.conversation import Conversation
from keel.types.evaluation import Suite


@dataclass(frozen=True)
class RubricLabel:
    """One label that an answer may get."""

    name: str
    meaning: str
    """Criterion of the label, in a sentence or two."""
    score: float | None = None
    """Its number, where labels stand on a scale."""


@dataclass(frozen=True)
class Rubric:
    """How answers are labelled: by one of some labels, or by a whole number on a scale."""

    name: str
    version: int
    instruction: str
    """The judge's instruction; `{role}`, `{description}`, ... are replaced by a case's fields.
    The conversation itself is added by the judge."""
    labels: tuple[RubricLabel, ...] = ()
    low: int | None = None
    high: int | None = None
    """Ends of the scale, where there are no labels."""

    def __post_init__(self) -> None:
        has_scale = self.low is not None and self.high is not None and self.low < self.high
        if bool(self.labels) == has_scale:
            raise UsageError(
                f"rubric {self.name!r} has {len(self.labels)} labels and the scale "
                f"{self.low} to {self.high}; expected either labels or a scale"
            )
        names = [label.name for label in self.labels]
        if len(set(names)) != len(names):
            raise UsageError(f"rubric {self.name!r} has a label twice: {', '.join(names)}")

    @property
    def hash(self) -> str:
        """SHA-256 of everything that the judge is given."""
        rubric = [self.name, self.version, self.instruction, self.low, self.high]
        labels = [[label.name, label.meaning, label.score] for label in self.labels]
        return hashlib.sha256(json.dumps([rubric, labels]).encode()).hexdigest()

    @property
    def id(self) -> str:
        """Name, version and the hash's beginning: tells rubrics apart in files and reports."""
        return f"{self.name}-v{self.version}-{self.hash[:8]}"

    def label(self, name: str) -> RubricLabel:
        """The label of that name. Raises UsageError where there is none."""
        for label in self.labels:
            if label.name == name:
                return label
        known = ", ".join(label.name for label in self.labels)
        raise UsageError(f"rubric {self.name!r} has no label {name!r}; it has {known}")


@dataclass(frozen=True)
class Case:
    """One answer to be graded."""

    id: str
    conversation: Conversation
    """Ends with the answer."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Values for the placeholders in the rubric's instruction."""


@dataclass(frozen=True)
class Verdict:
    """A judge's label or score of one case."""

    case_id: str
    label: str = ""
    """One of the rubric's labels, or the number as text; empty unless `status` is ok."""
    score: float | None = None
    """The number, where the rubric has a scale or its labels have numbers."""
    confidence: float | None = None
    """The judge's own probability (0 to 1) of the label; None where it gives none."""
    status: Literal["ok", "unparsed", "failed"] = "ok"
    """`unparsed`: the judge's reply holds no label. `failed`: it gave no reply."""
    reason: str = ""
    """What the judge replied, or the error, cut to a few hundred characters."""


@runtime_checkable
class Grader(Protocol):
    """Labels answers by a rubric. One that cannot be labelled gets a status that says so."""

    @property
    def name(self) -> str:
        """Names the judge and its settings, in files and reports."""

    def grade(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        """One verdict per case, each as soon as it is known, in any order."""


@dataclass(frozen=True)
class SuiteLabels:
    """The labels that a suite's answers were given, and which of them count."""

    suite: Suite
    rubric: Rubric
    facts: Mapping[str, str] = field(default_factory=dict)
    """Facts about the labels, for the result."""
    warnings: tuple[str, ...] = ()


@runtime_checkable
class UnsupervisedGrader(Grader, Protocol):
    """A Grader that finds its labels in the answers, so it needs all of them at every call."""

    def labels(self, suite: Suite) -> SuiteLabels:
        """The labels of the cases last graded, for a suite whose own labels were not given."""
