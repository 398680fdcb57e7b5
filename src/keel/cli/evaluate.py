"""keel evaluate: what steering and capping do, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from keel.cli import console
from keel.cli.evaluate_capability import TaskOptions, evaluate_tasks
from keel.cli.evaluation_asked import Asked, JudgedBy, is_for_lm_eval
from keel.cli.judging_asked import endpoint_limits

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.evaluate import Answerer
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
    arms: Annotated[
        str,
        typer.Option(
            help="What is done to the model, comma-separated: none, capped[:SETTING], "
            "steered:STRENGTH[@LAYER], replaced, prompt, reprompt, and the controls random, "
            "shuffled, in-span, each [#DRAW][:STRENGTH or :SETTING]."
        ),
    ] = "none,capped,random",
    limit: Annotated[int | None, typer.Option(help="Take the first so many items.", min=1)] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="heuristic, self, channel, local:MODEL, channel:MODEL, openai:MODEL or "
            "clusters[:N]; else heuristic, and clusters for the base suites."
        ),
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="Address of the judge, where it is not OpenAI's.")
    ] = None,
    rubrics: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rubrics in place of Keel's, as JSON.")
    ] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(help="For an openai judge: the pace, retries included.")
    ] = None,
    max_requests: Annotated[
        int | None, typer.Option(help="For an openai judge: stop after so many.", min=1)
    ] = None,
    max_usd: Annotated[
        float | None,
        typer.Option(help="For an openai judge: stop at this cost; needs both prices."),
    ] = None,
    usd_in: Annotated[
        float | None, typer.Option(help="Price of a million tokens sent, in dollars.")
    ] = None,
    usd_out: Annotated[
        float | None, typer.Option(help="Price of a million tokens received.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Your own items: red-team cases, or tasks' as TASK=FILE,TASK=FILE."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", "--tasks", help="For capability: tasks of lm-eval's; else the paper's four."
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Of lm-eval's tasks.", min=1)] = None,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Chat template for lm-eval's tasks.")
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let tasks run Python code that the model wrote.")
    ] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest answer; else the suite's own.", min=1)
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", min=0)] = None,
    name: Annotated[str, typer.Option(help="Under which it is kept; else the suite's name.")] = "",
    on: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Steer another model of that shape along the axis."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Items are answered by a served model.")
    ] = None,
    endpoint_model: Annotated[
        str | None, typer.Option(help="The served model's name; else the run's.")
    ] = None,
    seed: console.Seed = 0,
    engine_name: console.EngineName = "transformers",
    device: console.Device = "auto",
    dtype: console.Dtype = "auto",
    blocks: console.Blocks = None,
    trust_remote_code: console.RemoteCode = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do anew what was begun otherwise.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the run's evaluations.")] = False,
    json: console.Json = False,
) -> None:
    """Prove what steering and capping do: the same items under several arms, paired.

    Interrupted, it goes on where it stopped when called again. Arms can be added later: only
    what is missing is answered.
    """
    from keel.prompts import read_rubrics
    from keel.store import open_run

    opened = open_run(run)
    if list_ or not suite:
        from keel.cli.evaluation_list import list_evaluations

        list_evaluations(run, json, is_asked=list_)
        return
    asked = Asked(opened, suite, arms, limit, data, seed, name, tuple(task or ()))
    asked = replace(asked, longest=max_new_tokens, temperature=temperature, overwrite=overwrite)
    asked = replace(asked, on=on, is_served=endpoint is not None)
    asked.check()
    opening = (device, dtype, blocks, trust_remote_code, engine_name)
    if is_for_lm_eval(suite):
        options = TaskOptions(batch_size, chat, allow_code)
        served = None if endpoint is None else (endpoint, endpoint_model)
        evaluate_tasks(asked, opening, options, served=served, dry_run=dry_run, json=json)
        return
    limits = endpoint_limits(requests_per_minute, max_requests, max_usd, usd_in, usd_out)
    judged_by = JudgedBy(judge, judge_url, limits, rubrics)
    rubric = read_rubrics(rubrics)[asked.items.rubric]
    engine = None
    if endpoint is None:
        engine = console.open_model(on or opened.identity.model_id, *opening)
        answerer, evaluation = _here(asked, engine, is_priced=dry_run)
    else:
        answerer, arms_there, warnings = asked.served_by(endpoint, endpoint_model)
        evaluation = asked.evaluation(arms_there, warnings)
    grader = judged_by.open(suite, engine)
    if dry_run:
        _show_price(asked, answerer, evaluation, (grader, rubric), json)
        return
    _show_result(_evaluate(asked, answerer, evaluation, grader, rubric), asked, json)


def _here(asked: Asked, engine: Engine, *, is_priced: bool) -> tuple[Answerer, Evaluation]:
    """An engine of Keel's answers. For a price, arms need not be made: names will do."""
    from keel import pipeline
    from keel.evaluate import Arm, EngineAnswerer, parse_arms
    from keel.store import RunFolder

    lent = None if asked.on is None else pipeline.lend_axis(asked.run.axis, engine)
    axis = asked.run.axis if lent is None else lent.axis
    specs = parse_arms(asked.arms)
    answerer = EngineAnswerer(engine, axis)
    by_name = asked.evaluation(tuple(Arm(s.name) for s in specs))
    if is_priced:
        return answerer, by_name
    # Controls take half a minute to match: what would be refused is refused before.
    pipeline.begins_anew(answerer, RunFolder(asked.run.path), by_name, overwrite=asked.overwrite)
    with console.progress() as progress:
        arms = pipeline.arms_of(
            engine, asked.run, specs, axis=axis, seed=asked.seed, on_progress=progress
        )
    told = ((), {}) if lent is None else ((lent.warning,), lent.facts)
    return answerer, asked.evaluation(arms, *told)


def _evaluate(
    asked: Asked, answerer: Answerer, evaluation: Evaluation, grader: Grader, rubric: Rubric
) -> EvalResult:
    from keel import pipeline
    from keel.store import RunFolder

    with console.progress() as progress:
        return pipeline.evaluate(
            answerer,
            RunFolder(asked.run.path),
            evaluation,
            grader,
            rubric,
            overwrite=asked.overwrite,
            on_progress=progress,
        )


def _show_result(result: EvalResult, asked: Asked, json: bool) -> None:
    """A table of arms, and what it lets one conclude."""
    from keel.cli.evaluation_words import print_result, result_record

    if json:
        console.print_json({"run": asked.run.path, **result_record(result)})
        return
    print_result(result)
    run = escape(str(asked.run.path))
    console.stdout.print(f"\nIn HTML: [b]keel report {run}[/b]", soft_wrap=True)


def _show_price(
    asked: Asked,
    answerer: Answerer,
    evaluation: Evaluation,
    judged_by: tuple[Grader, Rubric],
    json: bool,
) -> None:
    from keel import pipeline
    from keel.evaluate import EngineAnswerer
    from keel.store import RunFolder

    with console.waiting("pricing"):
        price = pipeline.price_evaluation(
            answerer,
            RunFolder(asked.run.path),
            evaluation,
            judged_by=judged_by,
            measure=isinstance(answerer, EngineAnswerer),
            overwrite=asked.overwrite,
        )
    if json:
        console.print_json(price)
        return
    for what, value in price.items():
        console.stdout.print(f"{what:<34}{value}")
