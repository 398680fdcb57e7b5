"""keel calibrate: find floors and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from keel.cli import console, results
from keel.cli.options import Given, takes
from keel.settings import (
    OUTPUT,
    SWEEP,
    CalibrateSettings,
    OpeningSettings,
    SweepSettings,
    SweepSources,
)

if TYPE_CHECKING:
    from keel.types import Calibration

EXAMPLES = """
Examples:

    keel calibrate runs/smollm2

    keel calibrate runs/smollm2 --band 18:23 --percentile 75

    keel calibrate runs/smollm2 --deviations 0 --deviations 1 --price-bound 0.05

    keel calibrate runs/smollm2 --sweep --dry-run

    keel calibrate runs/smollm2 --sweep --limit 200 --capability gsm8k=gsm8k.jsonl --adopt
"""


@takes(CalibrateSettings(), SweepSettings(), SweepSources(), OpeningSettings())
def calibrate(
    run: console.Run,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep", help="Measure harm and capability of settings over the whole depth."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help=f"{SWEEP}: say what it would take.", rich_help_panel=OUTPUT),
    ] = False,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Find the floor: how high it can lie, how often it fires, and at what price.

    With --sweep, settings over the whole depth are screened by what is cheap to know, those worth
    it are measured on items of a suite, and one is recommended. It goes on where it stopped.
    """
    from keel import pipeline
    from keel.cli.sweep import sweep_run
    from keel.store import RunFolder, open_run

    opened, given = open_run(run), with_heights(given)
    usual = given.names(CalibrateSettings())
    if sweep:
        only_usual = [name for name in usual if name not in given.names(SweepSettings())]
        _refuse(only_usual, "a sweep takes --width, --centre")
        sweep_run(opened, given, is_priced=dry_run, json=json)
        return
    of_sweep = given.names(SweepSettings()) + given.names(SweepSources())
    only_sweep = [name for name in of_sweep if name not in usual]
    _refuse([*only_sweep, *["--dry-run"] * dry_run], "these are of --sweep")
    settings = given.over(CalibrateSettings())
    for band in settings.bands:
        band.check_fits(len(opened.axis.vector))
    engine = console.open_model(opened.identity.model_id, given.over(OpeningSettings()))
    with console.progress() as progress:
        calibration = pipeline.calibrate(engine, RunFolder(run), settings, on_progress=progress)
    show_calibration(calibration, run, json)


def show_calibration(calibration: Calibration, run: Path, json: bool) -> None:
    """Print every setting's price against its effect, and the chosen one; or as JSON."""
    if json:
        console.print_json({"run": run, **results.calibration_record(calibration)})
        return
    results.print_results(calibration=calibration)
    name = escape(str(run))
    results.print_next(f"Next: [b]keel chat {name} --capped[/b], or [b]keel report {name}[/b]")


def with_heights(given: Given) -> Given:
    """Deviations that are given are tried alone, not beside the usual percentiles."""
    if "--deviations" in given.values and "--percentile" not in given.values:
        return Given({**given.values, "--percentile": ()})
    return given


def _refuse(options: Sequence[str], why: str) -> None:
    """Refuse options that have no use here. Raises UsageError."""
    from keel.errors import UsageError

    if options:
        raise UsageError(f"{', '.join(options)} cannot be used here: {why}")
