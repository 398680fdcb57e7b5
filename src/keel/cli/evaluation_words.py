"""An evaluation's result in a terminal: a table, bars, and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from keel.cli import console
from keel.types import ArmResult, EvalResult, Interval
from keel.words import p_value

if TYPE_CHECKING:
    from rich.table import Table

    from keel.store import EvaluationFolder

_BAR_GOES_HERE, _SHORTEST_BAR = "", 7
_BAR = 14
_NONE = "–"


def result_record(result: EvalResult) -> dict[str, Any]:
    """All of a result as plain values: an entry per arm, rates with their bounds beside them."""
    record: dict[str, Any] = console.plain(result)
    return {
        **record,
        "arms": [_arm_record(arm) for arm in result.arms],
        "baseline": None if result.baseline is None else _arm_record(result.baseline),
    }


def print_result(result: EvalResult) -> None:
    """The table, then what can be concluded, then what speaks against it."""
    out = console.stdout
    out.print(f"[b]{escape(result.suite)}[/b]: {escape(result.measure)}, judged by {result.judge}")
    out.print(_effects(result))
    out.print(_costs(result))
    for line in result.reading:
        out.print(f"• {escape(line)}")
    for warning in result.warnings:
        out.print(f"[yellow]! {escape(warning)}[/yellow]")


def print_list(found: Sequence[EvaluationFolder], results: Mapping[str, EvalResult]) -> None:
    """Every evaluation of a run, the unfinished ones with what to type."""
    from rich.table import Table

    if not found:
        console.stdout.print("No evaluation yet.")
        return
    table = Table("name", "suite", "arms", "items", "state", box=None, pad_edge=False)
    for one in found:
        items = str(sum(map(len, one.plan.batches)))
        state = (
            f"finished, judged by {results[one.name].judge}"
            if one.name in results
            else f"begun; go on with: {one.plan.command}"
        )
        arms = ", ".join(arm.name for arm in one.arms())
        suite = str(one.plan.settings["suite"])
        table.add_row(*map(escape, (one.name, suite, arms, items, state)))
    console.stdout.print(table)


def interval_bar(found: Interval, low: float, high: float, width: int = _BAR) -> str:
    """The interval as a line with its value on it, between two ends.

    >>> interval_bar(Interval(0.5, 0.25, 0.75), 0, 1, width=9)
    '··├─●─┤··'
    """
    span = high - low or 1.0

    def place(value: float) -> int:
        return min(width - 1, max(0, round((value - low) / span * (width - 1))))

    first, middle, last = place(found.low), place(found.value), place(found.high)
    line = ["·"] * first + ["─"] * (last - first + 1) + ["·"] * (width - 1 - last)
    line[first], line[last] = "├", "┤"
    line[middle] = "●"
    return "".join(line)


def _effects(result: EvalResult) -> Table:
    """What each arm came to, beside the unsteered one; the bar takes the room that is left."""
    rows = _rows(result)
    is_share = result.is_share
    low, high = min(0.0, *(arm.rate.low for arm in rows)), max(arm.rate.high for arm in rows)
    heads = ("n", "%" if is_share else "mean", "95 %", "", "change", "p")
    cells = [_effect_cells(arm, is_share) for arm in rows]
    taken = sum(max(map(len, column)) + 2 for column in zip(("arm", *heads), *cells, strict=True))
    room = min(_BAR, console.stdout.width - taken)
    table = _empty_table(*heads)
    for arm, told in zip(rows, cells, strict=True):
        ends = (low, max(high, 1.0) if is_share else high)
        bar = interval_bar(arm.rate, *ends, room) if room >= _SHORTEST_BAR else ""
        style = "dim" if arm is result.baseline else ""
        table.add_row(
            *map(escape, (bar if cell == _BAR_GOES_HERE else cell for cell in told)), style=style
        )
    return table


def _effect_cells(arm: ArmResult, is_share: bool) -> tuple[str, ...]:
    change = arm.difference
    return (
        arm.arm,
        f"{arm.n}" + (f" −{arm.unjudged}" if arm.unjudged else ""),
        _number(arm.rate.value, is_share),
        f"{_number(arm.rate.low, is_share)} to {_number(arm.rate.high, is_share)}",
        _BAR_GOES_HERE,
        _NONE if change is None else _change(change, is_share),
        p_value(arm.p_value),
    )


def _costs(result: EvalResult) -> Table:
    """What each arm does to the answers besides."""
    table = _empty_table("fires", "nonsense", "perplexity", "tokens", "place", "p, all arms")
    for arm in result.arms:
        table.add_row(
            *map(
                escape,
                (
                    arm.arm,
                    _share(arm.firing_rate),
                    _share(arm.nonsensical_rate),
                    _NONE if arm.perplexity is None else f"{arm.perplexity:.3g}",
                    _NONE if arm.mean_tokens is None else f"{arm.mean_tokens:.0f}",
                    _NONE if arm.projection_gaps is None else f"{arm.projection_gaps:+.2f}",
                    p_value(arm.p_holm),
                ),
            )
        )
    table.caption = "change: against none, item by item; place: 0 the roles' mean, 1 the default's"
    return table


def _rows(result: EvalResult) -> list[ArmResult]:
    return [*result.arms, *([result.baseline] if result.baseline is not None else [])]


def _empty_table(*heads: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("arm", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="left" if head == "" else "right", no_wrap=True)
    return table


def _arm_record(arm: ArmResult) -> dict[str, Any]:
    record: dict[str, Any] = console.plain(arm)
    rate = record.pop("rate")
    return {
        "arm": record.pop("arm"),
        "rate": rate["value"],
        "ci_low": rate["low"],
        "ci_high": rate["high"],
        **record,
    }


def _number(value: float, is_share: bool) -> str:
    return f"{100 * value:.1f}" if is_share else f"{value:.3g}"


def _change(change: Interval, is_share: bool) -> str:
    scale = 100 if is_share else 1
    return change.text(lambda value: f"{scale * value:+.1f}")


def _share(share: float | None) -> str:
    return _NONE if share is None else f"{share:.0%}"
