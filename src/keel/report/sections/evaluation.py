"""Sections on evaluations, one each: the paired table with its controls, and what it shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from keel.report import figures
from keel.report.content import Picture, Section, Table
from keel.report.figures import theme
from keel.report.inputs import ReportInputs
from keel.report.sections.label_shifts import shifts_table
from keel.types import UNSTEERED, ArmResult, EvalResult
from keel.words import NOT_A_NUMBER, counted, fixed, number, p_value, percent

_STRENGTH = re.compile(r"steered:([+-][0-9.e+-]+)")
_LABEL_COLOURS = {
    "assistant": theme.DEFAULT_COLOUR,
    "human": "#E69F00",
    "nonhuman": "#009E73",
    "mystical": "#CC79A7",
    "refusal": theme.DEFAULT_COLOUR,
    "redirection": "#56B4E9",
    "harmless": "#009E73",
    "harmful_mild": "#E69F00",
    "harmful_full": theme.FLOOR_COLOUR,
    "nonsensical": "#9A9A9A",
    "other": "#C9CDD3",
}
"""The same label has the same colour on every page."""


def evaluation_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """One section per evaluation of the run."""
    return tuple(_section(name, found) for name, found in inputs.evaluations.items())


def _section(name: str, found: EvalResult) -> Section:
    title = "Evaluation" if name == found.suite else f"Evaluation “{name}”"
    words = (_say_what(found), *found.reading, *(f"Beware: {w}." for w in found.warnings))
    return Section(
        f"evaluation-{name}",
        f"{title}: {found.suite}",
        words,
        tuple(_pictures(name, found)),
        tuple(one for one in _tables(found) if one is not None),
    )


def _say_what(found: EvalResult) -> str:
    arms = counted(len(found.arms), "arm")
    better = "Higher is better." if found.is_higher_better else ""
    by = f", judged by `{found.judge}`" + (f" with `{found.rubric}`" if found.rubric else "")
    asked = "; ".join(f"{what} {value}" for what, value in found.settings.items())
    return (
        f"Measured: {found.measure}{by}. The same items under {arms}, drawn with the same seeds, "
        "so that each is held against the unsteered one item by item. Intervals are of 95 %, by "
        "drawing anew the levels that items share, and never narrower than for independent "
        f"answers. {better} ({asked})."
    )


def _pictures(name: str, found: EvalResult) -> list[Picture]:
    baseline = None if found.baseline is None else found.baseline.rate
    rates = Picture(
        f"rates-{name}",
        partial(figures.draw_rates, found.arms, measure=found.measure, baseline=baseline),
        "Each arm's rate with its 95 % interval. Whether two differ is told by the table: the "
        "items are the same, so intervals may overlap and the difference be sure all the same.",
        f"Rates of {counted(len(found.arms), 'arm')} with intervals.",
    )
    colours = _colours(figures.labels_of(found.arms))
    if not colours:
        return [rates, *_by_first(name, found)]
    shares = Picture(
        f"labels-{name}",
        partial(figures.draw_label_shares, found.arms, colours),
        "What the answers were labelled, arm by arm.",
        f"Stacked bars of labels of {counted(len(found.arms), 'arm')}.",
    )
    return [rates, shares, *_curve(name, found, colours), *_by_first(name, found)]


def _by_first(name: str, found: EvalResult) -> list[Picture]:
    """The second answer by where the first one stood, where the suite has two turns."""
    if not found.by_first_projection:
        return []
    draw = partial(
        figures.draw_harm_by_projection,
        found.by_first_projection,
        measure=found.measure,
        correlation=found.correlation,
    )
    return [
        Picture(
            f"by-first-{name}",
            draw,
            "Unsteered: first answers sorted into bins of as many each by where they stand on the "
            "axis, and how often the second answer counts. Bars: 95 % upwards, the bin across.",
            f"Rates in {counted(len(found.by_first_projection), 'bin')} of first answers.",
        )
    ]


def _tables(found: EvalResult) -> tuple[Table | None, ...]:
    return (_table(found), shifts_table(found), _arms_table(found))


def _curve(name: str, found: EvalResult, colours: dict[str, str]) -> list[Picture]:
    """Labels over the strength of steering, where there are strengths enough for a curve."""
    points = sorted(_strengths(found.arms), key=lambda point: point[0])
    if len(points) < 3:
        return []
    return [
        Picture(
            f"strengths-{name}",
            partial(figures.draw_label_curve, points, colours),
            "Shares of labels over the strength of steering along the axis, in residual norms; "
            "0 is unsteered.",
            f"Stacked curve of labels over {counted(len(points), 'strength')}.",
        )
    ]


def _strengths(arms: Sequence[ArmResult]) -> list[tuple[float, ArmResult]]:
    found = []
    for arm in arms:
        match = _STRENGTH.fullmatch(arm.arm)
        if match is not None or arm.arm == UNSTEERED:
            found.append((float(match[1]) if match is not None else 0.0, arm))
    return found


def _table(found: EvalResult) -> Table:
    header = (
        "arm",
        "n",
        found.measure,
        "against unsteered",
        "p",
        "p, all arms",
        "slots moved",
        "nonsense",
        "perplexity",
        "tokens",
        "place (gaps)",
    )
    rows = [_row(arm) for arm in found.arms]
    if found.baseline is not None:
        rows.append(("bare requests", *_row(found.baseline)[1:]))
    caption = "Every arm against the unsteered one, on the same items; controls among them"
    return Table(caption, header, tuple(rows))


def _row(arm: ArmResult) -> tuple[str, ...]:
    left_out = f" ({arm.unjudged} unjudged)" if arm.unjudged else ""
    return (
        arm.arm,
        f"{arm.n}{left_out}",
        arm.rate.text(_to_three_decimals),
        NOT_A_NUMBER if arm.difference is None else arm.difference.text(_to_three_decimals),
        p_value(arm.p_value),
        p_value(arm.p_holm),
        NOT_A_NUMBER if arm.firing_rate is None else percent(arm.firing_rate, 1),
        NOT_A_NUMBER if arm.nonsensical_rate is None else percent(arm.nonsensical_rate, 1),
        NOT_A_NUMBER if arm.perplexity is None else number(arm.perplexity),
        NOT_A_NUMBER if arm.mean_tokens is None else fixed(arm.mean_tokens, 0),
        NOT_A_NUMBER if arm.projection_gaps is None else fixed(arm.projection_gaps),
    )


def _arms_table(found: EvalResult) -> Table:
    rows = tuple((arm.arm, arm.note or NOT_A_NUMBER) for arm in found.arms)
    return Table("What each arm does", ("arm", "what it does"), rows, is_folded=True)


def _colours(labels: Sequence[str]) -> dict[str, str]:
    return {
        label: _LABEL_COLOURS.get(label, theme.kind_style(place)[0])
        for place, label in enumerate(labels)
    }


def _to_three_decimals(value: float) -> str:
    return fixed(value, 3)
