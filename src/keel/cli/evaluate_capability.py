"""keel evaluate RUN capability, or RUN TASK: tasks of lm-evaluation-harness, arm by arm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from keel.cli import console, results
from keel.cli.evaluation_asked import CAPABILITY, Asked
from keel.settings import CapabilitySettings, OpeningSettings

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.evaluate import ServedAnswerer
    from keel.pipeline import CapabilityEvaluation
    from keel.store import RunFolder


def evaluate_tasks(
    asked: Asked,
    opening: OpeningSettings,
    options: CapabilitySettings,
    *,
    served: tuple[str, str | None] | None,
    dry_run: bool,
    json: bool,
) -> None:
    """Each task under every arm, scored by lm-eval; `served` is an address and a model's name."""
    from keel import pipeline
    from keel.evaluate.capability import check_harness
    from keel.store import RunFolder

    check_harness()  # before a model is loaded, which may take minutes
    wanted = _evaluations(asked, options)
    folder = RunFolder(asked.run.path)
    model: Engine | ServedAnswerer
    if served is None:
        model = console.open_model(asked.run.identity.model_id, opening)
        wanted = _with_arms(asked, model, wanted, is_priced=dry_run)
    else:
        model, arms, warnings = asked.served_by(*served)
        wanted = [replace(one, arms=arms, warnings=warnings) for one in wanted]
    if dry_run:
        _show_prices(model, folder, wanted, asked.overwrite, json)
        return
    scored = []
    for one in wanted:
        with console.progress() as progress:
            result = pipeline.evaluate_capability(
                model, folder, one, overwrite=asked.overwrite, on_progress=progress
            )
        scored.append(result)
        if not json:
            results.print_results(evaluations={asked.name or result.suite: result})
    if json:
        records = [results.evaluation_record(result) for result in scored]
        record = records[0] if len(records) == 1 else {"tasks": records}
        console.print_json({"run": asked.run.path, **record})


def _evaluations(asked: Asked, options: CapabilitySettings) -> list[CapabilityEvaluation]:
    """What was asked of each task, but for the arms. Raises UsageError for what makes no sense."""
    from keel.errors import UsageError
    from keel.pipeline import CapabilityEvaluation

    if asked.temperature is not None:
        raise UsageError("tasks say themselves how they are sampled; leave out --temperature")
    tasks, data = _tasks(asked)
    if asked.name and len(tasks) > 1:
        raise UsageError(f"--name is of one task, and {len(tasks)} are asked for")
    settings = CapabilitySettings(
        limit=asked.limit,
        seed=asked.seed or CapabilitySettings().seed,
        is_chat=options.is_chat,
        batch_size=options.batch_size,
        max_new_tokens=asked.longest,
        allows_code=options.allows_code,
    )
    command = f"keel evaluate {asked.run.path} {asked.suite} with the same options"
    return [
        CapabilityEvaluation(t, (), settings, data=data.get(t), name=asked.name, command=command)
        for t in tasks
    ]


def _tasks(asked: Asked) -> tuple[tuple[str, ...], dict[str, Path]]:
    """Names of tasks, and the file of each that has one."""
    from keel.errors import UsageError
    from keel.pipeline import PAPER_TASKS

    named = tuple(one.strip() for given in asked.tasks for one in given.split(",") if one.strip())
    if asked.suite != CAPABILITY:
        if named:
            raise UsageError(f"--tasks is for the suite {CAPABILITY}, not for {asked.suite}")
        named = (asked.suite,)
    pairs = _files(asked.data)
    if pairs is None:
        tasks = named or PAPER_TASKS
        if asked.data is not None and len(tasks) > 1:
            raise UsageError(
                f"--data {asked.data} is one file for {len(tasks)} tasks; say which is whose: "
                f"--data {tasks[0]}=FILE,{tasks[1]}=FILE"
            )
        return tasks, {} if asked.data is None else {tasks[0]: asked.data}
    tasks = named or tuple(pairs)
    strangers = [name for name in pairs if name not in tasks]
    if strangers:
        raise UsageError(f"--data gives a file for {strangers[0]}, which is not among the tasks")
    return tasks, pairs


def _files(data: Path | None) -> dict[str, Path] | None:
    """`gsm8k=a.jsonl,ifeval=b.jsonl` by task; None where no task is named."""
    if data is None or data.exists() or "=" not in str(data):
        return None
    pairs = [one.partition("=") for one in str(data).split(",")]
    return {task.strip(): Path(file.strip()).expanduser() for task, _, file in pairs}


def _with_arms(
    asked: Asked, engine: Engine, wanted: list[CapabilityEvaluation], *, is_priced: bool
) -> list[CapabilityEvaluation]:
    """The same with the arms that were asked for. For a price, names will do."""
    from keel import pipeline
    from keel.evaluate import Arm, parse_arms

    specs = parse_arms(asked.arms)
    if is_priced:
        return [replace(one, arms=tuple(Arm(spec.name) for spec in specs)) for one in wanted]
    with console.progress() as progress:
        arms = pipeline.arms_of(engine, asked.run, specs, seed=asked.seed, on_progress=progress)
    return [replace(one, arms=arms) for one in wanted]


def _show_prices(
    model: Engine | ServedAnswerer,
    folder: RunFolder,
    wanted: list[CapabilityEvaluation],
    overwrite: bool,
    json: bool,
) -> None:
    from keel import pipeline

    prices = []
    for one in wanted:
        with console.waiting(f"pricing {one.task}"):
            price = pipeline.price_capability(model, folder, one, overwrite=overwrite)
        prices.append(price)
    if json:
        console.print_json(prices[0] if len(prices) == 1 else {"tasks": prices})
        return
    for price in prices:
        console.print_price(price, json)
