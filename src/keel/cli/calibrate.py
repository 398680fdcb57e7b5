"""keel calibrate: find floors and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from keel.cli import console
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


def show_calibration(found: Calibration, run: Path, json: bool) -> None:
    """What a calibration found: every setting's price against its effect, and the one chosen."""
    from keel.cli.findings import calibration_summary, calibration_words

    if json:
        console.print_json({"run": run, **calibration_summary(found)})
        return
    console.stdout.print(_table(found))
    for line in calibration_words(found):
        console.stdout.print(line)
    name = escape(str(run))
    console.stdout.print(f"\nNext: [b]keel chat {name} --capped[/b], or [b]keel report {name}[/b]")


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


def _table(found: Calibration) -> object:
    """Price and effect of every setting, drawn against each other."""
    from rich.table import Table

    highest = max((s.shift_gaps for s in found.settings), default=0.0)
    table = Table("setting", "fires", "price", "effect", "", box=None, pad_edge=False)
    for setting in sorted(found.settings, key=lambda s: s.kl_default):
        bar = "█" * round(24 * max(0.0, setting.shift_gaps) / highest) if highest > 0 else ""
        is_dear = setting.kl_default > found.price_bound
        style = "bold green" if setting.name == found.chosen else "dim" if is_dear else ""
        table.add_row(
            setting.name,
            f"{setting.firing_rate:.0%}",
            f"{setting.kl_default:.3f}",
            f"{setting.shift_gaps:+.2f}",
            bar + (" ← chosen" if setting.name == found.chosen else " too dear" if is_dear else ""),
            style=style,
        )
    table.caption = (
        "price: mean KL per token on default answers, nats; effect: rise of answers in a role, gaps"
    )
    return table
