"""From answers and verdicts to rates, differences and what they mean. Knows no model.

Everything is computed from one table of arms × items, made once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from keel.errors import TooFewSamplesError
from keel.evaluate.conclusions import conclude, control_of
from keel.evaluate.evaluation import case_of
from keel.statistics import (
    Clusters,
    Floats,
    clustered_correlation,
    difference_interval,
    holm,
    is_too_skewed,
    paired_p_value,
    rate_interval,
)
from keel.steering import Firing
from keel.types import (
    UNSTEERED,
    Answered,
    ArmResult,
    ControlMatch,
    EvalResult,
    Interval,
    Item,
    RateInRange,
    ScoreColumn,
    Scoring,
    Verdict,
)

_BINS = 8
_FEWEST_IN_BIN = 10


@dataclass(frozen=True)
class ArmAnswers:
    """All that one arm answered."""

    name: str
    answers: tuple[Answered, ...]
    firing: Firing | None = None
    """None where the arm has no bound."""
    note: str = ""
    match: ControlMatch | None = None
    """Of a cap's control, how it pushes beside the cap."""


@dataclass(frozen=True)
class SummarySettings:
    """How a result is computed, and what it says of how it was made."""

    in_gaps: Callable[[float], float] | None = None
    """A raw projection in gap units; None where the axis does not know them."""
    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArmRow:
    """One arm's row of the table: an entry per item."""

    arm: ArmAnswers
    answers: tuple[Answered, ...]
    labels: list[str | None]
    """None where an item was not judged."""
    values_N: Floats
    """What each item counts for; NaN where it was not judged."""
    column: ScoreColumn

    @property
    def first_projections_N(self) -> Floats:
        """Raw projection of each item's first answer; NaN where it has none."""
        projections = (answer.first_projection for answer in self.answers)
        return np.array([np.nan if p is None else p for p in projections], dtype=np.float64)


class ScoreTable:
    """Arms × items: answers, verdicts, and the numbers that they count for.

    Raises TooFewSamplesError where an arm lacks an answer to one of the items.
    """

    def __init__(
        self,
        scoring: Scoring,
        items: Sequence[Item],
        arms: Sequence[ArmAnswers],
        verdicts: Mapping[str, Verdict],
        settings: SummarySettings,
    ) -> None:
        self.scoring, self.settings = scoring, settings
        self.items = tuple(items)
        self.rows = {arm.name: self._row(arm, verdicts) for arm in arms}
        """By arm."""
        self.clusters = Clusters.of([item.factors for item in items])
        """Which items share a persona, a request or another factor."""
        self.scale = scoring.scale([row.column for row in self.rows.values()])
        """The least and the greatest that an item can count for."""
        rubric = scoring.rubric
        self.labels = [] if rubric is None else [label.name for label in rubric.labels]

    def _row(self, arm: ArmAnswers, verdicts: Mapping[str, Verdict]) -> ArmRow:
        by_id = {answer.item_id: answer for answer in arm.answers}
        lacking = [item.id for item in self.items if item.id not in by_id]
        if lacking:
            raise TooFewSamplesError(
                f"arm {arm.name!r} has no answer to {len(lacking)} of {len(self.items)} items, "
                f"such as {lacking[0]!r}; run the same command again"
            )
        answers = tuple(by_id[item.id] for item in self.items)
        pairs = zip(self.items, answers, strict=True)
        given = (verdicts.get(case_of(item, answer).id) for item, answer in pairs)
        judged = tuple(v if v is not None and v.status == "ok" else None for v in given)
        labels = [None if verdict is None else verdict.label for verdict in judged]
        column = self.scoring.column(judged)
        return ArmRow(arm, answers, labels, np.array(column.values, dtype=np.float64), column)

    def is_skewed(self, values_N: Floats) -> bool:
        """Whether scores, or their differences, are too skewed for their interval; NaN left out."""
        judged_N = np.isfinite(values_N)
        has_shares = self.scale == (0.0, 1.0)
        kept = self.clusters.only(judged_N)
        return bool(not has_shares and judged_N.any() and is_too_skewed(values_N[judged_N], kept))

    def difference(self, row: ArmRow, other: ArmRow) -> Interval | None:
        """The row's rate minus the other's over items judged in both; None where there is none."""
        both_N = _in_both(row, other)
        if not both_N.any():
            return None
        kept = self.clusters.only(both_N)
        values = row.values_N[both_N], other.values_N[both_N]
        return difference_interval(*values, kept, scale=self.scale)


def summarise_arms(
    scoring: Scoring,
    arms: Sequence[ArmAnswers],
    verdicts: Mapping[str, Verdict],
    settings: SummarySettings = SummarySettings(),
) -> EvalResult:
    """Rates with intervals, each arm against the unsteered one item by item.

    `verdicts` are by case id. Raises TooFewSamplesError where an arm has no verdict at all.
    """
    suite = scoring.suite
    items = [item for item in suite.items if not item.is_baseline]
    table = ScoreTable(scoring, items, arms, verdicts, settings)
    results = {name: _arm_result(row, table) for name, row in table.rows.items()}
    plain = table.rows.get(UNSTEERED)
    baseline = correlation = None
    by_projection: tuple[RateInRange, ...] = ()
    if plain is not None:
        results = _compared(results, table, plain)
        if bare := [item for item in suite.items if item.is_baseline]:
            bare_table = ScoreTable(scoring, bare, [plain.arm], verdicts, settings)
            bare_result = _arm_result(bare_table.rows[UNSTEERED], bare_table)
            baseline = replace(bare_result, arm="baseline")
        correlation = _correlation(plain, table)
        by_projection = rates_by_projection(
            plain.first_projections_N,
            plain.values_N,
            table.clusters,
            in_gaps=settings.in_gaps,
            scale=table.scale,
        )
    result = EvalResult(
        suite=suite.name,
        measure=suite.measure,
        judge=scoring.judge,
        rubric="" if scoring.rubric is None else scoring.rubric.id,
        arms=tuple(results.values()),
        baseline=baseline,
        correlation=correlation,
        by_first_projection=by_projection,
        is_higher_better=suite.is_higher_better,
        settings=dict(settings.facts),
        warnings=(*settings.warnings, *_unchanged_arms(arms)),
        levels=table.clusters.levels,
        fixed=table.clusters.fixed,
        has_shares=table.scale == (0.0, 1.0),
    )
    contrasts = {
        (name, control): contrast
        for name, row in table.rows.items()
        for control, other in table.rows.items()
        if control_of(control, name) and (contrast := table.difference(row, other)) is not None
    }
    return replace(result, reading=conclude(result, contrasts))


def label_shifts(
    labels: Sequence[str | None],
    plain: Sequence[str | None],
    names: Sequence[str],
    clusters: Clusters,
) -> dict[str, Interval]:
    """Share of each label minus its share unsteered, over the items judged under both.

    Labels are one per item, None where it was not judged. Each interval is of 95 % by itself:
    of ten labels that stay as they are, one in two times some label seems to shift.
    """
    both_N = np.array([None not in pair for pair in zip(labels, plain, strict=True)], dtype=bool)
    if not both_N.any():
        return {}
    kept = clusters.only(both_N)

    def is_label_N(name: str, given: Sequence[str | None]) -> Floats:
        return np.array([float(given[n] == name) for n in np.flatnonzero(both_N).tolist()])

    return {
        name: difference_interval(is_label_N(name, labels), is_label_N(name, plain), kept)
        for name in names
        if name in labels or name in plain
    }


def rates_by_projection(
    projections_N: Floats,
    values_N: Floats,
    clusters: Clusters,
    *,
    in_gaps: Callable[[float], float] | None = None,
    bins: int = _BINS,
    scale: tuple[float, float] | None = None,
) -> tuple[RateInRange, ...]:
    """The rate among items whose first answers project alike, from the least Assistant-like up.

    Projections are raw; NaN is left out. Bins hold as many answers each, ten at least; there are
    none where that would leave fewer than two.
    """
    known_N = np.isfinite(projections_N) & np.isfinite(values_N)
    bins = min(bins, int(known_N.sum()) // _FEWEST_IN_BIN)
    if bins < 2:
        return ()
    edges = np.unique(np.quantile(projections_N[known_N], np.linspace(0, 1, bins + 1)))
    # The right edge belongs to the bin on its left, but for the first edge of all.
    bin_N = np.clip(np.searchsorted(edges, projections_N, side="left") - 1, 0, None)
    unit: Literal["gaps", "raw"] = "raw" if in_gaps is None else "gaps"
    ends = [float(edge) if in_gaps is None else in_gaps(float(edge)) for edge in edges]
    rates = []
    for number in range(len(edges) - 1):
        mask_N = known_N & (bin_N == number)
        if mask_N.any():
            rate = rate_interval(values_N[mask_N], clusters.only(mask_N), scale=scale)
            count = int(mask_N.sum())
            rates.append(RateInRange(ends[number], ends[number + 1], count, rate, unit))
    return tuple(rates)


def _arm_result(row: ArmRow, table: ScoreTable) -> ArmResult:
    """One arm's numbers by itself."""
    values_N, answers, scoring, settings = row.values_N, row.answers, table.scoring, table.settings
    judged_N = np.isfinite(values_N)
    rate = rate_interval(values_N[judged_N], table.clusters.only(judged_N), scale=table.scale)
    if row.column.rate is not None:
        rate = replace(rate, value=row.column.rate)
    counts = Counter(label for label in row.labels if label is not None)
    labels = {name: counts[name] / counts.total() for name in table.labels} if counts else {}
    gaps = None
    if settings.in_gaps is not None:
        projections = [a.projection for a in answers if a.projection is not None]
        gaps = _over(np.mean, [settings.in_gaps(p) for p in projections])
    has_written = scoring.rubric is not None or any(answer.tokens for answer in answers)
    return ArmResult(
        arm=row.arm.name,
        n=int(judged_N.sum()),
        rate=rate,
        labels=labels,
        unjudged=int((~judged_N).sum()),
        firing_rate=None if row.arm.firing is None else row.arm.firing.rate,
        nonsensical_rate=labels.get(scoring.suite.nonsense),
        perplexity=_over(np.median, [a.perplexity for a in answers]),
        mean_tokens=_over(np.mean, [float(a.tokens) for a in answers]) if has_written else None,
        projection_gaps=gaps,
        cut_share=_over(np.mean, [float(a.finish == "length") for a in answers])
        if has_written
        else None,
        note=row.arm.note,
        match=row.arm.match,
        is_rate_skewed=table.is_skewed(values_N),
    )


def _compared(
    results: Mapping[str, ArmResult], table: ScoreTable, plain: ArmRow
) -> dict[str, ArmResult]:
    """The results, each held against the unsteered arm; p corrected for how many were."""
    compared = dict(results)
    for name, row in table.rows.items():
        if name == UNSTEERED:
            continue
        both_N, p_value = _in_both(row, plain), None
        if both_N.any():
            values = row.values_N[both_N], plain.values_N[both_N]
            p_value = paired_p_value(*values, table.clusters.only(both_N), scale=table.scale)
        compared[name] = replace(
            compared[name],
            worse=_worse_share(row, plain, table),
            label_shifts=label_shifts(row.labels, plain.labels, table.labels, table.clusters),
            difference=table.difference(row, plain),
            p_value=p_value,
            is_difference_skewed=table.is_skewed(row.values_N - plain.values_N),
        )
    p_values = {name: r.p_value for name, r in compared.items() if r.p_value is not None}
    for name, p_holm in holm(p_values).items():
        compared[name] = replace(compared[name], p_holm=p_holm)
    return compared


def _worse_share(row: ArmRow, plain: ArmRow, table: ScoreTable) -> Interval | None:
    """Share of the items judged under both arms that the row's arm makes worse."""
    both_N = _in_both(row, plain)
    if not both_N.any():
        return None
    change_N = row.values_N[both_N] - plain.values_N[both_N]
    is_worse_N = change_N < 0 if table.scoring.suite.is_higher_better else change_N > 0
    return rate_interval(is_worse_N.astype(np.float64), table.clusters.only(both_N))


def _in_both(row: ArmRow, other: ArmRow) -> np.ndarray:
    """Which items were judged in both rows."""
    both_N: np.ndarray = np.isfinite(row.values_N) & np.isfinite(other.values_N)
    return both_N


def _correlation(row: ArmRow, table: ScoreTable) -> Interval | None:
    """Correlation of the first answer's projection with what the second counts for."""
    x_N, values_N = row.first_projections_N, row.values_N
    known_N = np.isfinite(x_N) & np.isfinite(values_N)
    try:
        return clustered_correlation(x_N[known_N], values_N[known_N], table.clusters.only(known_N))
    except TooFewSamplesError:
        return None  # one turn only, or an answer that never changes: there is no correlation


def _unchanged_arms(arms: Sequence[ArmAnswers]) -> list[str]:
    """Warnings about arms that changed no answer: they show nothing, or were not applied."""
    plain = {a.item_id: a.text for arm in arms if arm.name == UNSTEERED for a in arm.answers}
    return [
        f"arm {arm.name!r} changed not one answer: it is too weak to be told from doing nothing"
        for arm in arms
        if arm.name != UNSTEERED and all(plain.get(a.item_id) == a.text for a in arm.answers)
    ]


def _over(
    measure: Callable[[list[float]], object], numbers: Sequence[float | None]
) -> float | None:
    known = [number for number in numbers if number is not None]
    return float(measure(known)) if known else None  # type: ignore[arg-type]
