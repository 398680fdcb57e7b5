"""Which labels an arm moves answers to, and away from, as a table."""

from __future__ import annotations

from keel.report.content import Table
from keel.types import EvalResult, Interval
from keel.words import NOT_A_NUMBER, points


def shifts_table(found: EvalResult) -> Table | None:
    """A row per arm, a column per label, in points; None where no answer has a label."""
    arms = [arm for arm in found.arms if arm.label_shifts]
    labels = list(dict.fromkeys(label for arm in found.arms for label in arm.labels))
    labels = [label for label in labels if any(label in arm.label_shifts for arm in arms)]
    if not labels:
        return None
    rows = tuple((arm.arm, *(_shift(arm.label_shifts.get(one)) for one in labels)) for arm in arms)
    return Table(
        "Shift of each label's share against unsteered, in points (95 %, each by itself)",
        ("arm", *labels),
        rows,
        is_folded=True,
    )


def _shift(shift: Interval | None) -> str:
    return NOT_A_NUMBER if shift is None else shift.text(points)
