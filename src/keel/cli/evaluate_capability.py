"""keel evaluate RUN capability, or RUN TASK: tasks of lm-evaluation-harness, arm by arm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from keel.cli import console, results
from keel.cli.evaluation_asked import CAPABILITY, Asked
from keel.settings import CapabilitySettings, OpeningSettings

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.evaluate import Arm
    from keel.evaluate.capability import CapabilityTask, TaskAnswerer, TaskSource


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
    from keel.evaluate.capability import (
        ChatTaskAnswerer,
        check_harness,
        task_answerer,
        task_evaluation,
    )
    from keel.store import RunFolder

    check_harness()  # before a model is loaded, which may take minutes
    sources = _sources(asked, options)
    folder = RunFolder(asked.run.path)
    warnings: tuple[str, ...] = ()
    if served is None:
        engine = console.open_model(asked.run.identity.model_id, opening)
        arms = _arms(asked, engine, is_priced=dry_run)
        answerer_of: Callable[[CapabilityTask], TaskAnswerer] = partial(
            task_answerer, engine=engine
        )
    else:
        answerer, arms, warnings = asked.served_by(*served)
        answerer_of = partial(ChatTaskAnswerer, answerer=answerer)
    records = []
    for source in sources:
        task = source.open()
        evaluation = task_evaluation(
            task,
            answerer_of(task),
            arms,
            name=asked.name,
            warnings=warnings,
            command=f"keel evaluate {asked.run.path} {asked.suite} with the same options",
        )
        if dry_run:
            with console.waiting(f"pricing {source.task}"):
                price = pipeline.price_evaluation(folder, evaluation, overwrite=asked.overwrite)
            records.append(price)
            if not json:
                console.print_price(price, json)
            continue
        with console.progress() as progress:
            result = pipeline.evaluate(
                folder, evaluation, overwrite=asked.overwrite, on_progress=progress
            )
        records.append(results.evaluation_record(result))
        if not json:
            results.print_results(evaluations={evaluation.folder_name: result})
    if json:
        record = records[0] if len(records) == 1 else {"tasks": records}
        console.print_json(record if dry_run else {"run": asked.run.path, **record})


def _sources(asked: Asked, options: CapabilitySettings) -> list[TaskSource]:
    """The tasks, with settings and data of each. Raises UsageError for what makes no sense."""
    from keel.errors import UsageError
    from keel.evaluate.capability import TaskSource

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
    return [TaskSource(task, settings, data.get(task)) for task in tasks]


def _tasks(asked: Asked) -> tuple[tuple[str, ...], dict[str, Path]]:
    """Names of tasks, and the file of each that has one."""
    from keel.errors import UsageError
    from keel.evaluate.capability import PAPER_TASKS

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


def _arms(asked: Asked, engine: Engine, *, is_priced: bool) -> tuple[Arm, ...]:
    """The arms named on the command line. For a price, names will do."""
    from keel import pipeline
    from keel.evaluate import Arm, parse_arms

    specs = parse_arms(asked.arms)
    if is_priced:
        return tuple(Arm(spec.name) for spec in specs)
    with console.progress() as progress:
        return pipeline.arms_of(engine, asked.run, specs, seed=asked.seed, on_progress=progress)
