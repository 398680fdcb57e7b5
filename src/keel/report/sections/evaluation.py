"""Sections on evaluations, one each: the paired table with its controls, and what it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from keel.report.content import Picture, Section, Table
from keel.report.figures import theme
from keel.report.figures.evaluation import (
    draw_harm_by_projection,
    draw_label_curve,
    draw_label_shares,
    draw_rates,
    labels_of,
)
from keel.report.inputs import ReportInputs
from keel.types import UNSTEERED, EvalResult, Interval
from keel.words import (
    NOT_A_NUMBER,
    counted,
    fixed,
    known,
    listed,
    number,
    p_value,
    percent,
    points,
    tenths,
)

_three_decimals = partial(fixed, decimals=3)
_STRENGTH = re.compile(r"steered:([+-][0-9.e+-]+)")
_FEWEST_STRENGTHS = 3
_SKEWED = "skewed"
"""Beside a mean whose interval is likely too narrow; the table's caption says what it means."""
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
    return tuple(_section(name, result) for name, result in inputs.evaluations.items())


def _section(name: str, result: EvalResult) -> Section:
    better = "Higher is better." if result.is_higher_better else ""
    rubric = f" with `{result.rubric}`" if result.rubric else ""
    settings = "; ".join(f"{name} {value}" for name, value in result.settings.items())
    measured = (
        f"Measured: {result.measure}, judged by `{result.judge}`{rubric}. The same items under "
        f"{counted(len(result.arms), 'arm')}, drawn with the same seeds, so that each is held "
        f"against the unsteered one item by item. {_reach(result)} {better} ({settings})."
    )
    title = "Evaluation" if name == result.suite else f"Evaluation “{name}”"
    arm_table = Table.of(
        "What each arm does",
        result.arms,
        {"arm": lambda arm: arm.arm, "what it does": lambda arm: arm.note or NOT_A_NUMBER},
        is_folded=True,
    )
    arms = [arm for arm in result.arms if arm.label_shifts]
    shifted = {label for arm in arms for label in arm.label_shifts}
    labels = [label for label in labels_of(result.arms) if label in shifted]
    shifts = [
        {label: shift.text(points) for label, shift in arm.label_shifts.items()} for arm in arms
    ]
    rows = tuple(
        (arm.arm, *(texts.get(label, NOT_A_NUMBER) for label in labels))
        for arm, texts in zip(arms, shifts, strict=True)
    )
    caption = "Shift of each label's share against unsteered, in points (95 %, each by itself)"
    shift_table = Table(caption, ("arm", *labels), rows, is_folded=True)
    tables = (_effect_table(result), shift_table, arm_table)
    return Section(
        f"evaluation-{name}",
        f"{title}: {result.suite}",
        (measured, *result.reading),
        tuple(_pictures(name, result)),
        tuple(table for table in tables if table.rows),
        warnings=result.warnings,
    )


def _reach(result: EvalResult) -> str:
    """What the intervals are about: factors that they speak beyond, and those that are too few."""
    beyond = [counted(count, name) for name, count in result.levels.items()]
    these = [counted(count, name) for name, count in result.fixed.items()]
    words = "Intervals are of 95 %"
    if beyond:
        words += f", over {listed(beyond)} that items share"
    if these:
        words += f"; they hold for the {listed(these)} asked alone, too few to speak of others"
    return (
        f"{words}. With few items or personas those of shares are wider than they need be, and p "
        "finds too few differences, not too many."
    )


def _pictures(name: str, result: EvalResult) -> Iterator[Picture]:
    arms = counted(len(result.arms), "arm")
    baseline = None if result.baseline is None else result.baseline.rate
    counts = sorted({arm.n for arm in result.arms})
    sample = f"n = {' to '.join(f'{n:,}' for n in dict.fromkeys(counts[:: len(counts) - 1 or 1]))}"
    sample += " items per arm"
    yield Picture(
        f"rates-{name}",
        partial(draw_rates, result.arms, measure=result.measure, baseline=baseline),
        "Each arm's rate with its 95 % interval. Whether two differ is shown by the table: the "
        "items are the same, so intervals may overlap and the difference be sure all the same.",
        f"Rates of {arms} with intervals.",
        sample=f"{sample}.",
    )
    colours = {
        label: _LABEL_COLOURS.get(label, theme.kind_style(at)[0])
        for at, label in enumerate(labels_of(result.arms))
    }
    if colours:
        yield Picture(
            f"labels-{name}",
            partial(draw_label_shares, result.arms, colours),
            "What the answers were labelled, arm by arm.",
            f"Stacked bars of labels of {arms}.",
            sample=f"{sample}; no interval.",
        )
        by_strength = [
            (float(match[1]) if match is not None else 0.0, arm)
            for arm in result.arms
            if (match := _STRENGTH.fullmatch(arm.arm)) is not None or arm.arm == UNSTEERED
        ]
        if len(by_strength) >= _FEWEST_STRENGTHS:
            by_strength.sort(key=lambda pair: pair[0])
            yield Picture(
                f"strengths-{name}",
                partial(draw_label_curve, by_strength, colours),
                "Shares of labels over the strength of steering along the axis, in residual norms; "
                "0 is unsteered.",
                f"Stacked curve of labels over {counted(len(by_strength), 'strength')}.",
                sample=f"{sample}; no interval.",
            )
    if result.by_first_projection:
        yield Picture(
            f"by-first-{name}",
            partial(
                draw_harm_by_projection,
                result.by_first_projection,
                measure=result.measure,
                correlation=result.correlation,
            ),
            "Unsteered: first answers sorted into bins of as many each by where they stand on the "
            "axis, and how often the second answer counts. Bars: 95 % upwards, the bin across.",
            f"Rates in {counted(len(result.by_first_projection), 'bin')} of first answers.",
            sample=f"n = {sum(part.n for part in result.by_first_projection):,} answers.",
        )


def _effect_table(result: EvalResult) -> Table:
    rows = {arm.arm: arm for arm in result.arms}
    if result.baseline is not None:
        rows["bare requests"] = result.baseline
    these = listed([counted(count, name) for name, count in result.fixed.items()])
    alone = f"; all for the {these} asked alone, p too" if these else ""
    has_skewed = any(row.is_rate_skewed or row.is_difference_skewed for row in rows.values())
    skewed = (
        f"; {_SKEWED}: so skewed that the interval is likely too narrow, and the p of a difference "
        "too small"
        if has_skewed
        else ""
    )
    return Table.of(
        f"Every arm against the unsteered one, on the same items; controls among them{alone}"
        f"{skewed}",
        rows.items(),
        {
            "arm": lambda row: row[0],
            "n": lambda row: (
                f"{row[1].n} ({row[1].unjudged} unjudged)" if row[1].unjudged else f"{row[1].n}"
            ),
            result.measure: lambda row: _score(row[1].rate, row[1].is_rate_skewed),
            "against unsteered": lambda row: (
                NOT_A_NUMBER
                if row[1].difference is None
                else _score(row[1].difference, row[1].is_difference_skewed)
            ),
            "items made worse": lambda row: (
                NOT_A_NUMBER if row[1].worse is None else row[1].worse.text(percent)
            ),
            "p": lambda row: p_value(row[1].p_value),
            "p, all arms": lambda row: p_value(row[1].p_holm),
            "slots moved": lambda row: known(row[1].firing_rate, tenths),
            "lift (cap's)": lambda row: (
                NOT_A_NUMBER
                if row[1].match is None
                else f"{number(row[1].match.lift)} ({number(row[1].match.cap_lift)})"
            ),
            "nonsense": lambda row: known(row[1].nonsensical_rate, tenths),
            "perplexity": lambda row: known(row[1].perplexity, number),
            "cut off": lambda row: known(row[1].cut_share, tenths),
            "tokens": lambda row: known(row[1].mean_tokens, partial(fixed, decimals=0)),
            "projection (gaps)": lambda row: known(row[1].projection_gaps, fixed),
        },
        bars=lambda row: row[1].rate,
        bar_header="rate" if result.is_share else "score",
    )


def _score(mean: Interval, is_skewed: bool) -> str:
    """A mean with its interval, and beside it that scores are too skewed for the interval."""
    return mean.text(_three_decimals) + (f", {_SKEWED}" if is_skewed else "")
