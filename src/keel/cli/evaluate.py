"""keel evaluate: what steering and capping do, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from keel.cli import console, results
from keel.cli.evaluate_capability import evaluate_tasks
from keel.cli.evaluation_asked import Asked, is_for_lm_eval, judge_of
from keel.cli.options import Given, takes
from keel.settings import CapabilitySettings, EvaluateSettings, OpeningSettings

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.pipeline import Evaluation
    from keel.types import EvalResult, Grader, Rubric


EXAMPLES = """
Examples:

    keel evaluate runs/smollm2 jailbreak --arms none,capped,random --limit 100

    keel evaluate runs/smollm2 susceptibility --arms none,steered:-0.5,steered:+0.5,random:-0.5

    keel evaluate runs/smollm2 jailbreak --data mine.csv --judge openai:gpt-4.1-mini

    keel evaluate runs/smollm2 capability --tasks gsm8k,ifeval --data gsm8k=a.jsonl,ifeval=b.jsonl

    keel evaluate runs/mine jailbreak --arms none,prompt --endpoint http://127.0.0.1:8000/v1

    keel evaluate runs/smollm2 --list
"""


@takes(EvaluateSettings(), OpeningSettings(), CapabilitySettings())
def evaluate(
    run: console.Run,
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE",
            help="susceptibility, jailbreak, base-purpose, base-traits, drift-harm, capability, or "
            "any task of lm-evaluation-harness.",
        ),
    ] = "",
    list_: Annotated[bool, typer.Option("--list", help="Show the run's evaluations.")] = False,
    overwrite: console.Overwrite = False,
    dry_run: console.DryRun = False,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Prove what steering and capping do: the same items under several arms, paired.

    Interrupted, it goes on where it stopped when called again. Arms can be added later: only
    what is missing is answered.
    """
    from keel.prompts import read_rubrics
    from keel.store import open_run

    opened = open_run(run)
    if list_ or not suite:
        _list_evaluations(run, json, is_named=list_)
        return
    settings = given.over(EvaluateSettings())
    asked = Asked.of(opened, suite, settings, overwrite)
    asked.check()
    opening, endpoint = given.over(OpeningSettings()), settings.endpoint
    if is_for_lm_eval(suite):
        options = given.over(CapabilitySettings())
        served = None if endpoint is None else (endpoint, settings.endpoint_model)
        evaluate_tasks(asked, opening, options, served=served, dry_run=dry_run, json=json)
        return
    rubric = read_rubrics(settings.grader.rubrics)[asked.items.rubric]
    if endpoint is None:
        engine = console.open_model(settings.on or opened.identity.model_id, opening)
        judge = judge_of(settings, suite, engine), rubric
        evaluation = _here(asked, engine, judge, is_priced=dry_run)
    else:
        answerer, arms_there, warnings = asked.served_by(endpoint, settings.endpoint_model)
        judge = judge_of(settings, suite, None), rubric
        evaluation = asked.evaluation(answerer, arms_there, judge, warnings)
    if dry_run:
        _show_price(asked, evaluation, json)
        return
    _show_result(_evaluate(asked, evaluation), asked, json)


def _here(
    asked: Asked, engine: Engine, judge: tuple[Grader, Rubric], *, is_priced: bool
) -> Evaluation:
    """An engine of Keel's answers. For a price, arms need not be made: names will do."""
    from keel import pipeline
    from keel.evaluate import Arm, EngineAnswerer, parse_arms
    from keel.store import RunFolder

    transferred = None if asked.on is None else pipeline.transfer_axis(asked.run.axis, engine)
    axis = asked.run.axis if transferred is None else transferred.axis
    specs = parse_arms(asked.arms)
    answerer = EngineAnswerer(engine, axis)
    by_name = asked.evaluation(answerer, tuple(Arm(s.name) for s in specs), judge)
    if is_priced:
        return by_name
    # Controls take half a minute to match: what would be refused is refused before.
    pipeline.check_begun(RunFolder(asked.run.path), by_name, overwrite=asked.overwrite)
    with console.progress() as progress:
        arms = pipeline.arms_of(
            engine, asked.run, specs, axis=axis, seed=asked.seed, on_progress=progress
        )
    if transferred is None:
        return asked.evaluation(answerer, arms, judge)
    return asked.evaluation(answerer, arms, judge, (transferred.warning,), transferred.facts)


def _evaluate(asked: Asked, evaluation: Evaluation) -> EvalResult:
    from keel import pipeline
    from keel.store import RunFolder

    with console.progress() as progress:
        return pipeline.evaluate(
            RunFolder(asked.run.path),
            evaluation,
            overwrite=asked.overwrite,
            on_progress=progress,
        )


def _show_result(result: EvalResult, asked: Asked, json: bool) -> None:
    """Print the table of arms and what can be concluded from it, or all as JSON."""
    if json:
        console.print_json({"run": asked.run.path, **results.evaluation_record(result)})
        return
    results.print_results(evaluations={asked.name or result.suite: result})
    results.print_next(f"In HTML: [b]keel report {escape(str(asked.run.path))}[/b]")


def _show_price(asked: Asked, evaluation: Evaluation, json: bool) -> None:
    from keel import pipeline
    from keel.store import RunFolder

    with console.waiting("pricing"):
        price = pipeline.price_evaluation(
            RunFolder(asked.run.path), evaluation, overwrite=asked.overwrite
        )
    console.print_price(price, json)


def _list_evaluations(run: Path, json: bool, *, is_named: bool) -> None:
    """Every evaluation, finished or not. Raises UsageError where a suite should have been named."""
    from keel import pipeline
    from keel.errors import UsageError
    from keel.report import Account, Section, Table
    from keel.store import RunFolder, evaluations_in

    if not is_named:
        known = ", ".join([*pipeline.SUITES.names(), "capability"])
        raise UsageError(f"no suite is named; there are {known}, and --list shows what was done")
    folders = evaluations_in(RunFolder(run))
    finished = RunFolder(run).read().evaluations()
    if json:
        console.print_json(
            [
                {
                    "name": folder.name,
                    "suite": folder.plan.settings["suite"],
                    "arms": [arm.name for arm in folder.arms()],
                    "is_finished": folder.name in finished,
                    "command": folder.plan.command,
                }
                for folder in folders
            ]
        )
        return
    rows = tuple(
        (
            folder.name,
            str(folder.plan.settings["suite"]),
            ", ".join(arm.name for arm in folder.arms()),
            str(sum(map(len, folder.plan.batches))),
            f"finished, judged by {finished[folder.name].judge}"
            if folder.name in finished
            else f"begun; go on with: {folder.plan.command}",
        )
        for folder in folders
    )
    words = () if rows else ("No evaluation yet.",)
    table = Table("finished and begun", ("name", "suite", "arms", "items", "state"), rows)
    section = Section("evaluations", "Evaluations", words, tables=(table,))
    results.print_account(Account("", "", (), (section,)))
