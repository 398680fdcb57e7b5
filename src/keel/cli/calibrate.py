"""keel calibrate: find floors and what they cost; with --sweep, over the whole depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
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
    from keel.evaluate.capability import TaskSource
    from keel.store import Run
    from keel.types import Calibration, Suite, Sweep

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
    from keel.errors import MissingArtifactError
    from keel.store import RunFolder, open_run

    opened, given = open_run(run), with_heights(given)
    layers = len(opened.axis.vector)
    if not opened.has_map:
        raise MissingArtifactError(
            f"{run} holds an axis from elsewhere, and no answers to calibrate on; "
            f"{opened.floors_remedy}"
        )
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
        band.check_fits(layers)
    RunFolder(run).check_free()
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


def sweep_run(run: Run, given: Given, *, is_priced: bool, json: bool) -> None:
    """Run the sweep and print its result, or only its price."""
    from keel import pipeline
    from keel.judge import open_grader
    from keel.prompts import read_rubrics
    from keel.store import RunFolder

    settings, sources = given.over(SweepSettings()), given.over(SweepSources())
    # What makes no sense is refused before a model is loaded.
    suite, tasks = suite_of(sources), tuple(tasks_of(sources, settings.capability_limit))
    rubric = read_rubrics(sources.grader.rubrics)[suite.rubric]
    RunFolder(run.path).check_free()
    engine = console.open_model(run.identity.model_id, given.over(OpeningSettings()))
    grader = open_grader(
        sources.judge,
        url=sources.grader.url,
        engine=engine,
        limits=sources.grader.given_limits,
    )
    inputs = pipeline.SweepInputs(suite, grader, rubric, tasks)
    folder = RunFolder(run.path)
    if is_priced:
        with console.waiting("timing a batch"):
            price = pipeline.price_sweep(engine, folder, inputs, settings)
        console.print_price(price, json)
        return
    with console.progress() as progress:
        result = pipeline.sweep(engine, folder, inputs, settings, on_progress=progress)
    show_sweep(result, run.path, json)


def suite_of(sources: SweepSources) -> Suite:
    """The suite that measures harm, with the longest answer that was given."""
    from keel import pipeline

    suite = pipeline.open_suite(sources.suite, sources.data)
    if sources.max_new_tokens is None:
        return suite
    return replace(suite, sampling=replace(suite.sampling, max_new_tokens=sources.max_new_tokens))


def tasks_of(sources: SweepSources, capability_limit: int) -> Iterator[TaskSource]:
    """The tasks of `gsm8k,ifeval=FILE` that measure capability, as many items of each."""
    from keel.evaluate.capability import CapabilitySettings, TaskSource

    names = [name for name in sources.capability.split(",") if name.strip()]
    for name in names:
        task, _, file = name.strip().partition("=")
        settings = CapabilitySettings(
            limit=max(1, capability_limit // len(names)), max_new_tokens=sources.max_new_tokens
        )
        yield TaskSource(task, settings, Path(file) if file else None)


def show_sweep(sweep: Sweep, run: Path, json: bool) -> None:
    """Print what was pruned and why, the frontier and the recommendation; or all as JSON."""
    if json:
        verdict = {"fates": sweep.fates, "is_confirmed": sweep.is_confirmed}
        console.print_json({"run": run, **verdict, **console.plain(sweep)})
        return
    results.print_results(sweep=sweep)
    name = escape(str(run))
    use = f"[b]keel chat {name} --capped --setting {escape(sweep.recommended)}[/b], or "
    results.print_next(f"Next: {use if sweep.recommended else ''}[b]keel report {name}[/b]")


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
