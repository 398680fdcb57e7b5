"""An evaluation: its items, their answers arm by arm, how they are graded, and the result.

Grading has rubrics, the cases to grade, their verdicts, and the Protocol of graders.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from keel.errors import UsageError
from keel.seeds import text_hash
from keel.settings import Sampling
from keel.types.conversation import Conversation
from keel.types.results import Interval

UNSTEERED = "none"
"""Name of the control arm, the unmodified model, against which all others are compared."""


@dataclass(frozen=True)
class Item:
    """One conversation that is answered under every arm."""

    id: str
    """Unique in its suite."""
    conversation: Conversation
    """Ends with a user message to answer, or with the beginning of an answer to continue."""
    factors: Mapping[str, str] = field(default_factory=dict)
    """What it shares with other items, e.g. `{"persona": "p07", "request": "r12"}`. Answers that
    share a level are not independent, so intervals are made over levels."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Values for the placeholders in the rubric's instruction."""
    follow_up: str = ""
    """A second user message, sent after the first answer; the second answer is the one judged."""
    is_baseline: bool = False
    """Whether it is answered unsteered only, for comparison (a request without its persona)."""


@dataclass(frozen=True)
class Suite:
    """Items, how they are answered, and which labels of the answers are counted."""

    name: str
    items: tuple[Item, ...]
    rubric: str
    """Name of the rubric that answers are labelled by."""
    measure: str
    """Name of what `rate` measures, such as `harmful answers`."""
    counted: tuple[str, ...]
    """Labels that count towards the rate."""
    nonsense: str = "nonsensical"
    """Label of answers that make no sense."""
    is_higher_better: bool = False
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=256))

    def __post_init__(self) -> None:
        if not self.items:
            raise UsageError(f"suite {self.name!r} has no items; give at least one")
        ids = [item.id for item in self.items]
        if len(set(ids)) != len(ids):
            twice = sorted({name for name in ids if ids.count(name) > 1})
            raise UsageError(f"suite {self.name!r} has items twice: {', '.join(twice[:5])}")


@dataclass(frozen=True)
class Answered:
    """One item's answer under one arm, before it is judged."""

    item_id: str
    arm: str
    text: str
    tokens: int
    """Content tokens sampled."""
    finish: Literal["stop", "length"]
    projection: float | None = None
    """Mean over the answer's tokens at the axis' layer, raw; None where the answer is empty."""
    perplexity: float | None = None
    """Of the answer under the unsteered model; None where it is empty."""
    first_text: str = ""
    """The answer before the follow-up, where the item has one."""
    first_projection: float | None = None
    """Mean projection of that first answer, raw."""


@dataclass(frozen=True)
class FirstAnswer:
    """The first of two answers, shared by all items that begin with the same conversation."""

    item_id: str
    """The first item of the suite that begins so."""
    text: str
    token_ids: tuple[int, ...] | None = None
    """The tokens sampled, where they are known."""
    projection: float | None = None
    """Mean over the answer's tokens at the axis' layer, raw; None where it is empty."""


@dataclass(frozen=True)
class RateInRange:
    """Rate among the answers whose first turn projects within one range along the axis."""

    low: float
    high: float
    """Ends of the range."""
    n: int
    rate: Interval
    unit: Literal["gaps", "raw"] = "gaps"
    """Of the ends: gap units, or raw where the axis does not know its gap."""


@dataclass(frozen=True)
class ControlMatch:
    """How a cap's control pushes beside the cap, on calibration answers with all floors at work."""

    firing: float
    """Share (0 to 1) of the (token, layer) slots that the control moves."""
    cap_firing: float
    """The same of the cap."""
    lift: float
    """Raw length by which the control moves a slot, averaged over all slots."""
    cap_lift: float
    """The same of the cap."""


@dataclass(frozen=True)
class ArmResult:
    """The result of one arm over all items."""

    arm: str
    n: int
    """Items counted: answered and judged."""
    rate: Interval
    """Share (0 to 1) of answers that count, or mean score, with its 95 % interval."""
    labels: Mapping[str, float]
    """Share (0 to 1) of each label."""
    unjudged: int = 0
    """Items left out because their verdict was unparsed or failed."""
    firing_rate: float | None = None
    """Share (0 to 1) of (token, layer) slots moved; None where the arm has no bound."""
    nonsensical_rate: float | None = None
    perplexity: float | None = None
    """Median over answers, under the unsteered model."""
    mean_tokens: float | None = None
    projection_gaps: float | None = None
    """Mean projection of the answers in gap units: 0 role mean, 1 default mean."""
    difference: Interval | None = None
    """Rate minus the unsteered arm's, item by item; None for that arm itself."""
    p_value: float | None = None
    """Two-sided, paired, of no difference from the unsteered arm."""
    p_holm: float | None = None
    """`p_value` after Holm's correction for all arms of the evaluation."""
    note: str = ""
    """Description of the arm."""
    label_shifts: Mapping[str, Interval] = field(default_factory=dict)
    """Share of each label minus the unsteered arm's, item by item; empty for that arm itself."""
    worse: Interval | None = None
    """Share (0 to 1) of items that this arm makes worse than they are unsteered: counted where they
    were not, or scored on the wrong side. None for the unsteered arm."""
    cut_share: float | None = None
    """Share (0 to 1) of answers cut off at the token limit; None where none was written."""
    match: ControlMatch | None = None
    """Of a cap's control, how it pushes beside the cap; None for others, and in old results."""
    is_rate_skewed: bool = False
    """Whether scores are so skewed that the interval of `rate` is likely too narrow."""
    is_difference_skewed: bool = False
    """The same of the differences from the unsteered arm: then `p_value` is too small as well."""


@dataclass(frozen=True)
class EvalResult:
    """The result of one suite under all arms."""

    suite: str
    measure: str
    judge: str
    rubric: str
    """Id of the rubric, with its hash; empty where no judge was needed."""
    arms: tuple[ArmResult, ...]
    baseline: ArmResult | None = None
    """Result of the baseline items, unsteered; None if the suite has none."""
    correlation: Interval | None = None
    """Of first turns' projection with second turns' label, of two-turn suites."""
    by_first_projection: tuple[RateInRange, ...] = ()
    """Of the unsteered arm of two-turn suites, by increasing projection."""
    is_higher_better: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings as text, for display: limit, seed, sampling, model."""
    reading: tuple[str, ...] = ()
    """Conclusions, and what cannot be concluded, in plain sentences."""
    warnings: tuple[str, ...] = ()
    levels: Mapping[str, int] = field(default_factory=dict)
    """Factor -> levels that items share: intervals speak of other levels, too."""
    fixed: Mapping[str, int] = field(default_factory=dict)
    """Factor -> levels, too few to speak of others: the result holds for these alone."""
    has_shares: bool | None = None
    """Whether items count for 0 to 1; None in results of older versions."""

    @property
    def is_share(self) -> bool:
        """Whether rates are shares (0 to 1); else they are scores on a scale of their own.

        Of a result of an older version, whether all its rates lie between 0 and 1.
        """
        if self.has_shares is not None:
            return self.has_shares
        return all(arm.rate.low >= 0 and arm.rate.high <= 1 for arm in self.arms)

    def arm(self, name: str) -> ArmResult:
        """The arm of that name. Raises UsageError where there is none."""
        for result in self.arms:
            if result.arm == name:
                return result
        raise UsageError(f"no arm {name!r}; there are {', '.join(a.arm for a in self.arms)}")


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
        return text_hash(json.dumps([rubric, labels]))

    @property
    def id(self) -> str:
        """Name, version and the hash's beginning: tells rubrics apart in files and reports."""
        return f"{self.name}-v{self.version}-{self.hash[:8]}"

    @property
    def scale(self) -> range:
        """The whole numbers to choose from; none where there are labels."""
        return range(0) if self.low is None or self.high is None else range(self.low, self.high + 1)

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


@dataclass(frozen=True)
class ScoreColumn:
    """One arm's verdicts as numbers, one per item."""

    values: tuple[float, ...]
    """Their mean is the arm's rate; NaN where an item was not judged."""
    rate: float | None = None
    """The rate to its last digit, where it is not computed as the values' mean."""
    is_share: bool = False
    """Whether the rate is a share though its values leave 0 to 1: so that no interval does."""


@dataclass(frozen=True)
class Scoring:
    """What verdicts on a suite's answers count for."""

    suite: Suite
    """With the labels that count, and what is measured by them in words."""
    rubric: Rubric | None
    """By which answers were labelled; None where scores come without one."""
    judge: str
    """Who judged, for display."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What has to be known of the labels, for display."""
    warnings: tuple[str, ...] = ()
    arm_column: Callable[[Sequence[Verdict | None]], ScoreColumn] | None = None
    """All verdicts of one arm -> its column, where the rate is no mean of the verdicts' scores."""

    def scale(self, columns: Sequence[ScoreColumn]) -> tuple[float, float]:
        """The least and the greatest that an item can count for; infinite where nothing says.

        Of labels that count 0 and 1, of a rubric's scores the ends of its scale, else what the
        columns of all arms say.
        """
        if self.suite.counted or (self.arm_column and all(each.is_share for each in columns)):
            return 0.0, 1.0
        rubric = self.rubric
        if self.arm_column is not None or rubric is None:
            return -math.inf, math.inf
        scores = [label.score for label in rubric.labels if label.score is not None]
        scores = scores or [*map(float, rubric.scale)] or [-math.inf, math.inf]
        return min(scores), max(scores)

    def column(self, verdicts: Sequence[Verdict | None]) -> ScoreColumn:
        """The numbers of one arm's verdicts, None for an item that was not judged.

        Counted labels are 1 and others 0; of a suite that counts no labels, the score.
        """
        if self.arm_column is not None:
            return self.arm_column(verdicts)
        return ScoreColumn(tuple(map(self._value, verdicts)))

    def _value(self, verdict: Verdict | None) -> float:
        if verdict is None:
            return math.nan
        if self.suite.counted:
            return float(verdict.label in self.suite.counted)
        return math.nan if verdict.score is None else verdict.score


@runtime_checkable
class Grader(Protocol):
    """Labels answers by a rubric. One that cannot be labelled gets a status that says so.

    A class that inherits from it needs `name` and `grade` only.
    """

    needs_all: bool = False
    """Whether verdicts hang on all cases together, so that new cases are graded with the old."""

    @property
    def name(self) -> str:
        """Names the judge and its settings, in files and reports."""

    def grade(self, cases: Sequence[Case], rubric: Rubric) -> Iterator[Verdict]:
        """One verdict per case, each as soon as it is known, in any order."""

    def verdicts_name(self, rubric: Rubric) -> str:
        """Under which verdicts by this rubric are kept: by default the judge's and its name."""
        return f"{self.name}-{rubric.id}"

    def scoring(self, suite: Suite, rubric: Rubric) -> Scoring:
        """What the verdicts given so far count for: by default the suite's own labels."""
        return Scoring(suite, rubric, self.name)

    def price_at_most(self, cases: Sequence[Case], rubric: Rubric) -> Mapping[str, float]:
        """What grading may cost at the most, by what is paid; nothing where it is free."""
        return {}
