"""Outcomes as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import Machine
from benchmarks.measuring import Measurement, Spread
from benchmarks.outcomes import Comparison, Outcome

_BUSY = 0.5
_VERDICTS = {True: "[green]met[/]", False: "[red]missed[/]", None: "[dim]–[/]"}


def show_arms(console: Console, outcome: Outcome) -> None:
    """What each arm took in one benchmark."""
    rounds = max(len(found) for found in outcome.rounds.values())
    console.print(f"[bold]{outcome.name}[/]: {outcome.setting}; rounds: {rounds}", highlight=False)
    headings = ("arm", "wall s", "CPU s", "tokens / CPU s", "peak MB", "beyond the model MB")
    rows = [(arm, *_cells(found, outcome.tokens)) for arm, found in outcome.rounds.items()]
    shown = [place for place in range(len(headings)) if any(row[place] for row in rows)]
    table = Table()
    for place in shown:
        table.add_column(headings[place], justify="right" if place else "left")
    for row in rows:
        table.add_row(*(row[place] for place in shown))
    console.print(table)
    for note in outcome.notes:
        console.print(f"  {note}", highlight=False)
    console.print()


def show_summary(console: Console, outcomes: Sequence[Outcome], machine: Machine) -> None:
    """Every ratio with its target, and where it was measured."""
    console.print("[bold]Ratios[/]: median, least and most of the rounds")
    table = Table()
    for heading in ("benchmark", "ratio of", "in", "median", "least – most", "target", ""):
        table.add_column(heading, justify="right" if heading == "median" else "left")
    for outcome in outcomes:
        for one in outcome.comparisons:
            table.add_row(outcome.name, *_ratio_cells(outcome, one))
        table.add_section()
    console.print(table)
    console.print(str(machine), highlight=False, soft_wrap=True)
    if machine.load > _BUSY:
        console.print(f"[yellow]The machine was busy (load {machine.load}): measure again.[/]")


def _ratio_cells(outcome: Outcome, one: Comparison) -> tuple[str, ...]:
    target = "" if one.target is None else str(one.target)
    least_most = f"{one.ratio.low:.3f} – {one.ratio.high:.3f}"
    dtype = outcome.setting.partition(",")[0]
    median = f"{one.ratio.median:.3f}"
    return (one.what, dtype, median, least_most, target, _VERDICTS[one.is_met])


def _cells(found: Sequence[Measurement], tokens: int | None) -> tuple[str, ...]:
    rate = "" if tokens is None else _shown([tokens / one.cpu_s for one in found], digits=0)
    return (
        _shown([one.wall_s for one in found]),
        _shown([one.cpu_s for one in found]),
        rate,
        _shown([one.peak_bytes for one in found], unit=1e6, digits=0),
        _shown([one.working_bytes for one in found], unit=1e6, digits=0),
    )


def _shown(values: Sequence[Any], unit: float = 1, digits: int = 2) -> str:
    """Median (least – most); empty where nothing was measured."""
    if None in values:
        return ""
    spread = Spread.of([value / unit for value in values])
    if spread.low == spread.high:
        return f"{spread.median:.{digits}f}"
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f} – {spread.high:.{digits}f})"
