"""An evaluation: its items, their answers arm by arm, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from keel.errors import UsageError
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
    share a level are not independent, so intervals are bootstrapped by resampling levels."""
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

    @property
    def is_share(self) -> bool:
        """Whether rates are shares (0 to 1); else they are scores on a scale of their own."""
        return all(arm.rate.low >= 0 and arm.rate.high <= 1 for arm in self.arms)

    def arm(self, name: str) -> ArmResult:
        """The arm of that name. Raises UsageError where there is none."""
        for result in self.arms:
            if result.arm == name:
                return result
        raise UsageError(f"no arm {name!r}; there are {', '.join(a.arm for a in self.arms)}")
