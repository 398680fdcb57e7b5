"""keel calibrate --sweep: settings over the whole depth, screened, measured, one recommended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from keel.cli import console, results
from keel.cli.options import Given
from keel.settings import OpeningSettings, SweepSettings, SweepSources

if TYPE_CHECKING:
    from keel.evaluate.capability import TaskSource
    from keel.store import Run
    from keel.types import Suite, Sweep


def sweep_run(run: Run, given: Given, *, is_priced: bool, json: bool) -> None:
    """Sweep, or say what it would take, and show the result."""
    from keel import pipeline
    from keel.judge import open_grader
    from keel.prompts import read_rubrics
    from keel.store import RunFolder

    settings, sources = given.over(SweepSettings()), given.over(SweepSources())
    # What makes no sense is refused before a model is loaded.
    suite, tasks = suite_of(sources), tuple(tasks_of(sources, settings.capability_limit))
    rubric = read_rubrics(sources.grader.rubrics)[suite.rubric]
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
