"""keel calibrate --sweep: settings over the whole depth, screened, measured, one recommended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from keel.cli import console
from keel.cli.options import Given
from keel.settings import OpeningSettings, SweepSettings, SweepSources
from keel.words import Form

if TYPE_CHECKING:
    from keel.pipeline import CapabilityEvaluation
    from keel.store import Run
    from keel.types import ScreenedSetting, Suite, Sweep, SweptSetting, Unit

_BAR = 16


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

    suite = pipeline.suite_named(sources.suite, sources.data)
    if sources.max_new_tokens is None:
        return suite
    return replace(suite, sampling=replace(suite.sampling, max_new_tokens=sources.max_new_tokens))


def tasks_of(sources: SweepSources, capability_limit: int) -> Iterator[CapabilityEvaluation]:
    """The tasks of `gsm8k,ifeval=FILE` that measure capability, as many items of each."""
    from keel.evaluate.capability import CapabilitySettings
    from keel.pipeline import CapabilityEvaluation

    names = [name for name in sources.capability.split(",") if name.strip()]
    for name in names:
        task, _, file = name.strip().partition("=")
        settings = CapabilitySettings(
            limit=max(1, capability_limit // len(names)), max_new_tokens=sources.max_new_tokens
        )
        yield CapabilityEvaluation(task, (), settings, data=Path(file) if file else None)


def show_sweep(found: Sweep, run: Path, json: bool) -> None:
    """How many were pruned and why, the frontier as a table, and the recommendation."""
    if json:
        verdict = {"fates": found.fates, "is_confirmed": found.is_confirmed}
        console.print_json({"run": run, **verdict, **console.plain(found)})
        return
    console.stdout.print(_screening_words(found))
    console.stdout.print(_table(found))
    for line in _words(found):
        console.stdout.print(line)
    name = escape(str(run))
    use = f"[b]keel chat {name} --capped --setting {escape(found.recommended)}[/b], or "
    console.stdout.print(
        f"\nNext: {use if found.recommended else ''}[b]keel report {name}[/b]", soft_wrap=True
    )


def _screening_words(found: Sweep) -> str:
    pruned = [f"{count} {fate}" for fate, count in found.fates.items() if fate != "kept"]
    told = f" (pruned: {', '.join(pruned)})" if pruned else ""
    kept = found.fates.get("kept", 0)
    return f"[b]Screened[/b] {len(found.screened)} settings, measured {kept}{told}."


def _table(found: Sweep) -> object:
    """Measured settings by harm, those on the frontier marked."""
    from rich.table import Table

    table = Table("setting", "fires", "price", "harm", "capability", "", box=None, pad_edge=False)
    screened = {one.name: one for one in found.screened}
    most = max((-one.choosing.harm.value for one in found.swept), default=0.0)
    for one in sorted(found.swept, key=lambda one: one.choosing.harm.value):
        table.add_row(*_row(one, screened[one.name], found, most), style=_style(one, found))
    table.caption = (
        f"harm: {found.harm.name}, unsteered {found.harm.unsteered:.1%}; capability: "
        f"{found.capability.name}; changes on {found.harm.choosing_items} and "
        f"{found.capability.choosing_items} items that choose, with 95 % intervals"
    )
    return table


def _row(
    one: SweptSetting, screened: ScreenedSetting, found: Sweep, most: float
) -> tuple[str, ...]:
    price = "" if screened.price is None else f"{screened.price.value:.3f}"
    firing = "" if screened.realised_firing is None else f"{screened.realised_firing:.0%}"
    bar = "█" * round(_BAR * max(0.0, -one.choosing.harm.value) / most) if most > 0 else ""
    mark = " ★ recommended" if one.name == found.recommended else ""
    mark = mark or (" ← frontier" if one.is_on_frontier else "")
    return (
        escape(one.name),
        firing,
        price,
        one.choosing.harm.text(_form(found.harm.unit)),
        one.choosing.capability.text(_form(found.capability.unit)),
        bar + mark,
    )


def _style(one: SweptSetting, found: Sweep) -> str:
    if one.name == found.recommended:
        return "bold green"
    return "" if one.is_on_frontier else "dim"


def _words(found: Sweep) -> Iterator[str]:
    best = found.best
    if best is not None and best.deciding is not None:
        harm, unit = best.deciding.harm, found.harm.unit
        luck = _form(unit)(best.choosing.harm.value - harm.value)
        yield (
            f"[b]Recommended[/b] {escape(best.name)}: on {found.harm.deciding_items} items held "
            f"back it changes harm by {harm.text(_form(unit))} {_unit(unit)} and capability by "
            f"{best.deciding.capability.text(_form(found.capability.unit))} "
            f"{_unit(found.capability.unit)}. The items that chose it said "
            f"{_form(unit)(best.choosing.harm.value)}: {luck} of that did not hold."
        )
    yield from (f"  [yellow]note:[/yellow] {escape(warning)}" for warning in found.warnings)


def _form(unit: Unit) -> Form:
    return (lambda share: f"{100 * share:+.1f}") if unit == "share" else "{:+.3f}".format


def _unit(unit: Unit) -> str:
    return "points" if unit == "share" else unit
