"""From answers and verdicts to rates, differences and what they mean. Knows no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from keel.errors import TooFewSamplesError
from keel.evaluate.concluding import conclude, control_of
from keel.evaluate.running import case_of
from keel.evaluate.shifts import label_shifts, rates_by_place
from keel.statistics import (
    DRAWS,
    Floats,
    Resampling,
    clustered_correlation,
    difference_interval,
    holm,
    paired_p_value,
    rate_interval,
)
from keel.steering import Firing
from keel.types import (
    UNSTEERED,
    Answered,
    ArmResult,
    EvalResult,
    Interval,
    Item,
    RateInRange,
    Rubric,
    Suite,
    Verdict,
)


@dataclass(frozen=True)
class ArmAnswers:
    """All that one arm answered."""

    name: str
    answers: tuple[Answered, ...]
    firing: Firing | None = None
    """None where the arm has no bound."""
    note: str = ""


@dataclass(frozen=True)
class SummarySettings:
    """How a result is summed up, and what it is told to say of itself."""

    draws: int = DRAWS
    seed: int = 0
    in_gaps: Callable[[float], float] | None = None
    """A raw projection in gap units; None where the axis does not know them."""
    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def summarise_arms(
    suite: Suite,
    arms: Sequence[ArmAnswers],
    verdicts: Mapping[str, Verdict],
    *,
    rubric: Rubric,
    judge: str,
    settings: SummarySettings = SummarySettings(),
) -> EvalResult:
    """Rates with intervals, each arm against the unsteered one item by item.

    `verdicts` are by case id. Counted are the suite's labels; where it names none, the mean score
    is told. Raises TooFewSamplesError where an arm has no verdict at all.
    """
    told = _Scored(suite, [i for i in suite.items if not i.is_baseline], verdicts, rubric)
    alone = _Scored(suite, [i for i in suite.items if i.is_baseline], verdicts, rubric)
    plain = next((arm for arm in arms if arm.name == UNSTEERED), None)
    draws = _draws(told, settings)
    results = _corrected([_result(arm, told, draws, settings) for arm in arms], arms, told, draws)
    result = EvalResult(
        suite=suite.name,
        measure=suite.measure,
        judge=judge,
        rubric=rubric.id,
        arms=tuple(results),
        baseline=None if plain is None else _baseline(plain, alone, settings),
        correlation=None if plain is None else _correlation(plain, told, settings),
        by_first_projection=() if plain is None else _by_first(plain, told, draws, settings),
        is_higher_better=suite.is_higher_better,
        settings=dict(settings.facts),
        warnings=(*settings.warnings, *_idle(arms)),
    )
    return replace(result, reading=conclude(result, _against_controls(arms, told, draws)))


class _Scored:
    """Verdicts as numbers, one per item."""

    def __init__(
        self, suite: Suite, items: Sequence[Item], verdicts: Mapping[str, Verdict], rubric: Rubric
    ) -> None:
        self.suite, self.items, self.verdicts, self.rubric = suite, items, verdicts, rubric

    @property
    def factors(self) -> list[Mapping[str, str]]:
        """Of each item."""
        return [item.factors for item in self.items]

    def answers(self, arm: ArmAnswers) -> list[Answered]:
        """The arm's answer to each item. Raises TooFewSamplesError where one is lacking."""
        by_id = {answer.item_id: answer for answer in arm.answers}
        lacking = [item.id for item in self.items if item.id not in by_id]
        if lacking:
            raise TooFewSamplesError(
                f"arm {arm.name!r} has no answer to {len(lacking)} of {len(self.items)} items, "
                f"such as {lacking[0]!r}; run the same command again"
            )
        return [by_id[item.id] for item in self.items]

    def given(self, arm: ArmAnswers) -> list[Verdict | None]:
        """The verdict on each answer; None where it was not judged."""
        pairs = zip(self.items, self.answers(arm), strict=True)
        found = (self.verdicts.get(case_of(item, answer).id) for item, answer in pairs)
        return [v if v is not None and v.status == "ok" else None for v in found]

    def values(self, arm: ArmAnswers) -> Floats:
        """One number per item; NaN where it was not judged."""
        return np.array([np.nan if v is None else self._value(v) for v in self.given(arm)])

    def first_places(self, arm: ArmAnswers) -> Floats:
        """Raw projection of each item's first answer; NaN where it has none."""
        found = (answer.first_projection for answer in self.answers(arm))
        return np.array([np.nan if place is None else place for place in found])

    def labels(self, arm: ArmAnswers) -> dict[str, float]:
        """Share of each label, in the rubric's order; nothing where the rubric is a scale."""
        seen = Counter(v.label for v in self.given(arm) if v is not None)
        count = sum(seen.values())
        names = [label.name for label in self.rubric.labels]
        return {name: seen[name] / count for name in names} if count else {}

    def _value(self, verdict: Verdict) -> float:
        if self.suite.counted:
            return float(verdict.label in self.suite.counted)
        return np.nan if verdict.score is None else verdict.score


def _draws(told: _Scored, settings: SummarySettings) -> Resampling:
    return Resampling.of(told.factors, draws=settings.draws, seed=settings.seed)


def _baseline(plain: ArmAnswers, alone: _Scored, settings: SummarySettings) -> ArmResult | None:
    """What is only there to compare with, where there is such."""
    if not alone.items:
        return None
    return replace(_result(plain, alone, _draws(alone, settings), settings), arm="baseline")


def _result(
    arm: ArmAnswers, told: _Scored, draws: Resampling, settings: SummarySettings
) -> ArmResult:
    """What one arm came to by itself."""
    answers, values_N, labels = told.answers(arm), told.values(arm), told.labels(arm)
    judged_N = np.isfinite(values_N)
    return ArmResult(
        arm=arm.name,
        n=int(judged_N.sum()),
        rate=rate_interval(values_N[judged_N], draws.only(judged_N)),
        labels=labels,
        unjudged=int((~judged_N).sum()),
        firing_rate=None if arm.firing is None else arm.firing.rate,
        nonsensical_rate=labels.get(told.suite.nonsense),
        perplexity=_over(np.median, [a.perplexity for a in answers]),
        mean_tokens=_over(np.mean, [float(a.tokens) for a in answers]),
        projection_gaps=_gaps(answers, settings),
        note=arm.note,
    )


def _corrected(
    results: Sequence[ArmResult], arms: Sequence[ArmAnswers], told: _Scored, draws: Resampling
) -> list[ArmResult]:
    """The same, each held against the unsteered arm, and corrected for how many were."""
    columns = {arm.name: told.values(arm) for arm in arms}
    plain_N = columns.get(UNSTEERED)
    if plain_N is None:
        return list(results)
    compared = {
        one.arm: _compared(one, (columns[one.arm], plain_N), told, draws)
        for one in results
        if one.arm != UNSTEERED
    }
    shifts = _shifts(arms, told, draws)
    adjusted = holm(
        {name: one.p_value for name, one in compared.items() if one.p_value is not None}
    )
    return [
        replace(compared[one.arm], p_holm=adjusted.get(one.arm), label_shifts=shifts[one.arm])
        if one.arm in compared
        else one
        for one in results
    ]


def _compared(
    result: ArmResult, columns: tuple[Floats, Floats], told: _Scored, draws: Resampling
) -> ArmResult:
    both_N = np.isfinite(columns[0]) & np.isfinite(columns[1])
    if not both_N.any():
        return result
    values_N, plain_N = (column[both_N] for column in columns)
    factors = [one for one, is_in in zip(told.factors, both_N, strict=True) if is_in]
    return replace(
        result,
        difference=difference_interval(values_N, plain_N, draws.only(both_N)),
        p_value=paired_p_value(values_N, plain_N, factors),
    )


def _shifts(
    arms: Sequence[ArmAnswers], told: _Scored, draws: Resampling
) -> dict[str, dict[str, Interval]]:
    """Arm -> label -> its share minus the unsteered one."""
    names = [label.name for label in told.rubric.labels]
    given = {a.name: [None if v is None else v.label for v in told.given(a)] for a in arms}
    plain = given[UNSTEERED]
    return {name: label_shifts(labels, plain, names, draws) for name, labels in given.items()}


def _against_controls(
    arms: Sequence[ArmAnswers], told: _Scored, draws: Resampling
) -> dict[tuple[str, str], Interval]:
    """(arm, its control) -> the arm's rate minus the control's, item by item."""
    found = {}
    for arm in arms:
        for control in (one for one in arms if control_of(one.name, arm.name)):
            first_N, second_N = told.values(arm), told.values(control)
            both_N = np.isfinite(first_N) & np.isfinite(second_N)
            if both_N.any():
                found[arm.name, control.name] = difference_interval(
                    first_N[both_N], second_N[both_N], draws.only(both_N)
                )
    return found


def _correlation(plain: ArmAnswers, told: _Scored, settings: SummarySettings) -> Interval | None:
    """Of where the first answer stands with what the second is counted as, unsteered."""
    x_N, values_N = told.first_places(plain), told.values(plain)
    known_N = np.isfinite(x_N) & np.isfinite(values_N)
    factors = [one for one, is_in in zip(told.factors, known_N, strict=True) if is_in]
    try:
        return clustered_correlation(
            x_N[known_N], values_N[known_N], factors, draws=settings.draws, seed=settings.seed
        )
    except TooFewSamplesError:
        return None  # one turn only, or an answer that never changes: there is nothing to tell


def _by_first(
    plain: ArmAnswers, told: _Scored, draws: Resampling, settings: SummarySettings
) -> tuple[RateInRange, ...]:
    """What the second answer is counted as, by where the first one stands."""
    places_N = told.first_places(plain)
    return rates_by_place(places_N, told.values(plain), draws, in_gaps=settings.in_gaps)


def _idle(arms: Sequence[ArmAnswers]) -> list[str]:
    """Arms that changed no answer: they show nothing, or were not applied."""
    plain = {a.item_id: a.text for one in arms if one.name == UNSTEERED for a in one.answers}
    return [
        f"arm {arm.name!r} changed not one answer: it is too weak to be told from doing nothing"
        for arm in arms
        if arm.name != UNSTEERED and all(plain.get(a.item_id) == a.text for a in arm.answers)
    ]


def _gaps(answers: Sequence[Answered], settings: SummarySettings) -> float | None:
    if settings.in_gaps is None:
        return None
    told = [settings.in_gaps(a.projection) for a in answers if a.projection is not None]
    return float(np.mean(told)) if told else None


def _over(
    measure: Callable[[list[float]], object], numbers: Sequence[float | None]
) -> float | None:
    known = [number for number in numbers if number is not None]
    return float(measure(known)) if known else None  # type: ignore[arg-type]
