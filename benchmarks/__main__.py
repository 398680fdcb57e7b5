"""Runs the benchmarks: tables on stdout, progress on stderr, everything as JSON on demand."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import capping, generating, memory, one_pass, reading, studies
from benchmarks.machine import Machine
from benchmarks.measuring import NotMeasuredError
from benchmarks.outcomes import Dial, Outcome
from benchmarks.tables import show_arms, show_summary

BENCHMARKS: dict[str, Callable[[Dial], list[Outcome]]] = {
    "generating": generating.run,
    "one_pass": one_pass.run,
    "reading": reading.run,
    "capping": capping.run,
    "memory": memory.run,
    "studies": studies.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when all were measured, met or not; 1 when one could not be."""
    asked = _asked(arguments)
    # A table that goes to a file should not be cut to the width of a terminal.
    console = Console(width=None if sys.stdout.isatty() else 140)
    machine, began = Machine.here(), time.monotonic()
    outcomes, failed = _run(
        asked.only or list(BENCHMARKS), Dial(asked.quick, asked.repeats, asked.device), console
    )
    show_summary(console, outcomes, machine)
    console.print(f"It took {(time.monotonic() - began) / 60:.1f} minutes.", highlight=False)
    if asked.json is not None:
        record = _record(machine, outcomes, failed, is_quick=asked.quick)
        asked.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=BENCHMARKS, help="one benchmark; may be repeated"
    )
    parser.add_argument("--repeats", type=_count, help="rounds of each benchmark")
    parser.add_argument(
        "--device", default="cpu", metavar="cuda", help="where `generating` runs (default: cpu)"
    )
    parser.add_argument("--quick", action="store_true", help="two minutes, to see that all runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds, expected 1 or more")
    return int(text)


def _run(
    names: Sequence[str], dial: Dial, console: Console
) -> tuple[list[Outcome], dict[str, str]]:
    """What was found, and why a benchmark found nothing."""
    outcomes: list[Outcome] = []
    failed: dict[str, str] = {}
    for name in names:
        try:
            found = BENCHMARKS[name](dial)
        except NotMeasuredError as problem:
            failed[name] = str(problem)
            console.print(f"[red]{name} was not measured:[/] {problem}\n", highlight=False)
            continue
        for outcome in found:
            show_arms(console, outcome)
        outcomes += found
    return outcomes, failed


def _record(
    machine: Machine, outcomes: Sequence[Outcome], failed: dict[str, str], *, is_quick: bool
) -> dict[str, Any]:
    return {
        "machine": asdict(machine),
        "is_quick": is_quick,
        "outcomes": [
            {
                **asdict(outcome),
                "comparisons": [
                    {
                        "what": one.what,
                        **asdict(one.ratio),
                        "target": None if one.target is None else str(one.target),
                        "is_met": one.is_met,
                    }
                    for one in outcome.comparisons
                ],
            }
            for outcome in outcomes
        ],
        "failed": failed,
    }


if __name__ == "__main__":
    sys.exit(main())
