"""keel calibrate --sweep: settings over the whole depth, screened, measured, one recommended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from keel.cli import console
from keel.words import Form

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.pipeline import CapabilityEvaluation, SweepInputs, SweepSettings
    from keel.types import ScreenedSetting, Suite, Sweep, SweptSetting, Unit

_BAR = 16


@dataclass(frozen=True)
class SweepAsked:
    """What was asked on the command line; None where nothing was said."""

    width: tuple[int, ...] = ()
    centre: tuple[int, ...] = ()
    step: int | None = None
    suite: str | None = None
    data: Path | None = None
    judge: str | None = None
    judge_url: str | None = None
    capability: str | None = None
    limit: int | None = None
    capability_limit: int | None = None
    max_new_tokens: int | None = None
    tolerance: float | None = None
    dearest: float | None = None
    most: int | None = None
    adopt: bool = False
    dry_run: bool = False

    @property
    def given(self) -> list[str]:
        """Names of the options that were given."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value]

    def check(self) -> None:
        """Refuse what makes no sense before a model is loaded."""
        self.suite_asked()
        list(self.tasks())

    def suite_asked(self) -> Suite:
        """The suite with the length of answers that was asked for."""
        from dataclasses import replace

        from keel import pipeline

        found = pipeline.suite_named(self.suite or "jailbreak", self.data)
        if self.max_new_tokens is None:
            return found
        sampling = replace(found.sampling, max_new_tokens=self.max_new_tokens)
        return replace(found, sampling=sampling)

    def inputs(self, engine: Engine) -> SweepInputs:
        """Suite, judge and tasks."""
        from keel.judge import open_grader
        from keel.pipeline import SweepInputs
        from keel.prompts import read_rubrics

        suite = self.suite_asked()
        grader = open_grader(self.judge or "heuristic", url=self.judge_url, engine=engine)
        return SweepInputs(suite, grader, read_rubrics()[suite.rubric], tuple(self.tasks()))

    def tasks(self) -> Iterator[CapabilityEvaluation]:
        """lm-eval's tasks from `gsm8k,ifeval=FILE`, as many items of each."""
        from keel.evaluate.capability import CapabilitySettings
        from keel.pipeline import CapabilityEvaluation

        named = [one for one in (self.capability or "").split(",") if one.strip()]
        limit = max(1, self.settings(()).capability_limit // max(1, len(named)))
        for one in named:
            task, _, file = one.strip().partition("=")
            settings = CapabilitySettings(limit=limit, max_new_tokens=self.max_new_tokens)
            yield CapabilityEvaluation(task, (), settings, data=Path(file) if file else None)

    def settings(
        self,
        percentiles: tuple[float, ...],
        deviations: tuple[float, ...] = (),
        *,
        answers: int | None = None,
        seed: int = 0,
    ) -> SweepSettings:
        """Grid, limits and sizes, the usual ones where nothing was said."""
        from keel.calibrate import ScreenLimits, SweepGrid
        from keel.pipeline import SweepSettings

        usual = SweepGrid().percentiles if not deviations else ()
        grid = SweepGrid(
            widths=self.width,
            centres=self.centre,
            step=self.step,
            percentiles=percentiles or usual,
            deviations=deviations,
        )
        limits = ScreenLimits(**_said(max_price=self.dearest, max_settings=self.most))
        sizes = _said(screened_on=answers, limit=self.limit, capability_limit=self.capability_limit)
        return SweepSettings(
            grid=grid,
            limits=limits,
            tolerance=self.tolerance,
            seed=seed,
            adopt=self.adopt,
            **sizes,
        )


def sweep_settings(
    run: Path, asked: SweepAsked, settings: SweepSettings, engine: Engine, *, json: bool
) -> None:
    """Sweep, or say what it would take, and show what came of it."""
    from keel import pipeline
    from keel.store import RunFolder

    inputs = asked.inputs(engine)
    if asked.dry_run:
        with console.waiting("timing a batch"):
            price = pipeline.price_sweep(engine, RunFolder(run), inputs, settings)
        _show_price(price, json)
        return
    with console.progress() as progress:
        found = pipeline.sweep(engine, RunFolder(run), inputs, settings, on_progress=progress)
    show_sweep(found, run, json)


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


def _said(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _show_price(price: dict[str, Any], json: bool) -> None:
    if json:
        console.print_json(price)
        return
    for what, value in price.items():
        console.stdout.print(f"{what:<34}{value}")


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
