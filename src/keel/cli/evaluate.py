"""keel evaluate: what steering and capping do, and what they cost."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from keel.cli import console, results
from keel.cli.options import Given, takes
from keel.settings import CapabilitySettings, EvaluateSettings, OpeningSettings

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.evaluate import Answerer, Arm, ArmSpec, ServedAnswerer
    from keel.evaluate.capability import CapabilityTask, TaskAnswerer, TaskSource
    from keel.pipeline import Evaluation
    from keel.store import Run
    from keel.types import AssistantAxis, Grader, Suite

    AnswererOf = Callable[[CapabilityTask], TaskAnswerer]

BASE = ("base-purpose", "base-traits")
"""Suites whose answers clusters sort where no judge is named."""
CAPABILITY = "capability"
"""The suite of lm-eval's tasks."""
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
    from keel import pipeline
    from keel.errors import UsageError
    from keel.store import RunFolder, open_run

    if suite and (Path(suite) / "plan.json").is_file():
        raise UsageError(
            f"{suite} is a run, expected a suite; the run comes first: keel evaluate {suite} {run}"
        )
    opened = open_run(run)
    if list_ or not suite:
        _list_evaluations(run, json, is_named=list_)
        return
    request = EvaluationRequest(
        opened, suite, given.over(EvaluateSettings()), given.over(OpeningSettings()), overwrite
    )
    request.check(is_priced=dry_run)
    records = []
    for evaluation in request.evaluations(given.over(CapabilitySettings()), is_priced=dry_run):
        if dry_run:
            with console.waiting(f"pricing {evaluation.suite.name}"):
                price = pipeline.price_evaluation(RunFolder(run), evaluation, overwrite=overwrite)
            records.append(price)
            if not json:
                console.print_price(price, json)
            continue
        with console.progress() as progress:
            result = pipeline.evaluate(
                RunFolder(run), evaluation, overwrite=overwrite, on_progress=progress
            )
        records.append(results.evaluation_record(result))
        if not json:
            results.print_results(evaluations={request.settings.name or result.suite: result})
    if json:
        record = records[0] if len(records) == 1 else {"tasks": records}
        console.print_json(record if dry_run else {"run": run, **record})
    elif not dry_run:
        results.print_next(f"In HTML: [b]keel report {escape(str(run))}[/b]")


@dataclass(frozen=True)
class EvaluationRequest:
    """One call of `keel evaluate`, and the evaluations that it makes."""

    run: Run
    suite: str
    settings: EvaluateSettings
    opening: OpeningSettings
    overwrite: bool

    def check(self, *, is_priced: bool) -> None:
        """Refuse what makes no sense before a model is loaded."""
        from keel.errors import UsageError
        from keel.evaluate import parse_arms
        from keel.pipeline import is_swept
        from keel.store import EvaluationFolder, RunFolder

        settings = self.settings
        arms = parse_arms(settings.arms)
        if settings.name:
            EvaluationFolder(RunFolder(self.run.path), settings.name)
        if settings.endpoint is None and not is_priced:
            self._check_floors(arms)
            RunFolder(self.run.path).check_free()
        if is_swept(settings.name):
            raise UsageError(
                f"--name is {settings.name!r}, names that begin so are a sweep's own; choose "
                "another"
            )
        if settings.on is not None and (settings.endpoint is not None or names_tasks(self.suite)):
            raise UsageError("--on is neither for --endpoint nor for capability; leave it out")
        if not names_tasks(self.suite):
            self._suite()
            if settings.tasks:
                raise UsageError(f"--task is for the suite {CAPABILITY}, not for {self.suite}")

    def _check_floors(self, arms: Sequence[ArmSpec]) -> None:
        """Raise where an arm caps at a setting that the run does not have."""
        from keel.errors import MissingArtifactError

        for arm in arms:
            if arm.is_step or not (arm.is_control or arm.kind == "capped"):
                continue
            if not self.run.has_floors:
                raise MissingArtifactError(
                    f"{self.run.path} has no floors, which the arm {arm.name!r} takes; "
                    f"{self.run.floors_remedy}; or leave it out of --arms"
                )
            if arm.is_control and not self.run.has_map:
                raise MissingArtifactError(
                    f"{self.run.path} has no answers, on which the floors of the arm {arm.name!r} "
                    f"are matched with the cap's; leave it out of --arms, or {self.run.own_remedy}"
                )
            if arm.setting:
                self.run.floors_named(arm.setting)

    def evaluations(self, tasks: CapabilitySettings, *, is_priced: bool) -> Iterator[Evaluation]:
        """The suite's evaluation, or that of each task; for a price, arms have names only."""
        if names_tasks(self.suite):
            yield from self._of_tasks(tasks, is_priced=is_priced)
        elif self.settings.endpoint is not None:
            answerer, arms, warnings = self._served(self.settings.endpoint)
            yield self._of_suite(answerer, arms, self._grader(None), warnings)
        else:
            yield self._on_engine(is_priced=is_priced)

    def _of_suite(
        self,
        answerer: Answerer,
        arms: tuple[Arm, ...],
        grader: Grader,
        warnings: tuple[str, ...] = (),
    ) -> Evaluation:
        from keel.pipeline import Evaluation
        from keel.prompts import read_rubrics

        settings, suite = self.settings, self._suite()
        facts = {
            "limit": settings.limit,
            "data": settings.data and settings.data.name,
            "requests per first answer": settings.requests_per_answer,
        }
        on = "" if settings.on is None else f"{self.suite}-on-{Path(settings.on).name}"
        return Evaluation(
            suite=suite,
            arms=arms,
            answerer=answerer,
            grader=grader,
            rubric=read_rubrics(settings.grader.rubrics)[suite.rubric],
            name=settings.name or on,
            seed=settings.seed,
            facts={name: str(value) for name, value in facts.items() if value is not None},
            warnings=warnings,
            command=self._command,
        )

    def _on_engine(self, *, is_priced: bool) -> Evaluation:
        """The suite answered by the run's model, or by another one of its shape."""
        from keel import pipeline
        from keel.evaluate import Arm, EngineAnswerer, parse_arms
        from keel.store import RunFolder

        on = self.settings.on
        engine = console.open_model(on or self.run.identity.model_id, self.opening)
        transferred = None if on is None else pipeline.transfer_axis(self.run.axis, engine)
        axis = self.run.axis if transferred is None else transferred.axis
        by_name = self._of_suite(
            EngineAnswerer(engine, axis),
            tuple(Arm(spec.name) for spec in parse_arms(self.settings.arms)),
            self._grader(engine),
        )
        if is_priced:
            return by_name
        # Controls take half a minute to match: what would be refused is refused before.
        pipeline.check_begun(RunFolder(self.run.path), by_name, overwrite=self.overwrite)
        made = replace(by_name, arms=self._arms(engine, axis))
        if transferred is None:
            return made
        facts = {**made.facts, **transferred.facts}
        return replace(made, facts=facts, warnings=(transferred.warning,))

    def _of_tasks(self, options: CapabilitySettings, *, is_priced: bool) -> Iterator[Evaluation]:
        """Each of lm-eval's tasks under the arms, scored by lm-eval."""
        from keel.evaluate import Arm, parse_arms
        from keel.evaluate.capability import (
            ChatTaskAnswerer,
            check_harness,
            task_answerer,
            task_evaluation,
        )

        # Before a model is loaded and controls are matched, which may take minutes.
        check_harness()
        warnings: tuple[str, ...] = ()
        if self.settings.endpoint is not None:
            served, arms, warnings = self._served(self.settings.endpoint)
            answerer_of: AnswererOf = partial(ChatTaskAnswerer, answerer=served)
            tasks = self._opened_tasks(options)
        else:
            tasks = self._opened_tasks(options)
            engine = console.open_model(self.run.identity.model_id, self.opening)
            answerer_of = partial(task_answerer, engine=engine)
            names = tuple(Arm(spec.name) for spec in parse_arms(self.settings.arms))
            arms = names if is_priced else self._arms(engine, self.run.axis)
        for task in tasks:
            yield task_evaluation(
                task,
                answerer_of(task),
                arms,
                name=self.settings.name,
                warnings=warnings,
                command=self._command,
            )

    def _opened_tasks(self, options: CapabilitySettings) -> list[CapabilityTask]:
        """The tasks with their items. Raises UsageError for a name that is no suite's either."""
        from keel.errors import UsageError
        from keel.evaluate.capability import UnknownTaskError
        from keel.pipeline import SUITES

        sources = self._task_sources(options)
        try:
            return [source.open() for source in sources]
        except UnknownTaskError as error:
            if self.suite == CAPABILITY:
                raise
            suites = ", ".join([CAPABILITY, *SUITES.names()])
            raise UsageError(f"Keel has no suite {self.suite!r} ({suites}), and {error}") from None

    @property
    def _command(self) -> str:
        return f"keel evaluate {self.run.path} {self.suite} with the same options"

    def _suite(self) -> Suite:
        """The suite's first items, with the sampling that was given in place of its own."""
        from keel import pipeline
        from keel.evaluate import first_items

        settings = self.settings
        suite = first_items(
            pipeline.open_suite(
                self.suite, settings.data, requests_per_answer=settings.requests_per_answer
            ),
            settings.limit,
        )
        given = {"max_new_tokens": settings.max_new_tokens, "temperature": settings.temperature}
        changes: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
        return replace(suite, sampling=replace(suite.sampling, **changes))

    def _grader(self, engine: Engine | None) -> Grader:
        """The judge; where none is named, clusters for base models and the heuristic else."""
        from keel.judge import open_grader
        from keel.prompts import load_embedder

        grader = self.settings.grader
        return open_grader(
            self.settings.judge or ("clusters" if self.suite in BASE else "heuristic"),
            url=grader.url,
            engine=engine,
            limits=grader.given_limits,
            load_embedder=load_embedder,
        )

    def _arms(self, engine: Engine, axis: AssistantAxis) -> tuple[Arm, ...]:
        from keel import pipeline
        from keel.evaluate import parse_arms

        specs, seed = parse_arms(self.settings.arms), self.settings.seed
        with console.progress() as progress:
            return pipeline.arms_of(
                engine, self.run, specs, axis=axis, seed=seed, on_progress=progress
            )

    def _served(self, url: str) -> tuple[ServedAnswerer, tuple[Arm, ...], tuple[str, ...]]:
        """The model behind an address, its arms, and warnings about them."""
        from keel.evaluate import ServedAnswerer, parse_arms, served_arms

        served = served_arms(parse_arms(self.settings.arms))
        name = self.settings.endpoint_model or self.run.identity.model_id
        return ServedAnswerer(name, url, served.settings), served.arms, served.warnings

    def _task_sources(self, options: CapabilitySettings) -> list[TaskSource]:
        """The tasks, with settings and data of each. Raises UsageError for what makes no sense."""
        from keel.errors import UsageError
        from keel.evaluate.capability import TaskSource

        settings = self.settings
        if settings.temperature is not None:
            raise UsageError("tasks say themselves how they are sampled; leave out --temperature")
        tasks, data = self._tasks()
        if settings.name and len(tasks) > 1:
            raise UsageError(f"--name is of one task, and {len(tasks)} are asked for")
        options = replace(
            options,
            limit=settings.limit,
            seed=settings.seed or options.seed,
            max_new_tokens=settings.max_new_tokens,
        )
        return [TaskSource(task, options, data.get(task)) for task in tasks]

    def _tasks(self) -> tuple[tuple[str, ...], dict[str, Path]]:
        """Names of tasks, and the file of each that has one."""
        from keel.errors import UsageError
        from keel.evaluate.capability import PAPER_TASKS

        given, data = ",".join(self.settings.tasks), self.settings.data
        named = tuple(task.strip() for task in given.split(",") if task.strip())
        if self.suite != CAPABILITY:
            if named:
                raise UsageError(f"--tasks is for the suite {CAPABILITY}, not for {self.suite}")
            named = (self.suite,)
        if data is None:
            return named or PAPER_TASKS, {}
        if data.exists() or "=" not in str(data):
            tasks = named or PAPER_TASKS
            if len(tasks) > 1:
                raise UsageError(
                    f"--data {data} is one file for {len(tasks)} tasks; say which is whose: "
                    f"--data {tasks[0]}=FILE,{tasks[1]}=FILE"
                )
            return tasks, {tasks[0]: data}
        # `gsm8k=a.jsonl,ifeval=b.jsonl`
        pairs = [pair.partition("=") for pair in str(data).split(",")]
        files = {task.strip(): Path(file.strip()).expanduser() for task, _, file in pairs}
        tasks = named or tuple(files)
        strangers = [name for name in files if name not in tasks]
        if strangers:
            raise UsageError(
                f"--data gives a file for {strangers[0]}, which is not among the tasks"
            )
        return tasks, files


def names_tasks(suite: str) -> bool:
    """Whether tasks of lm-eval are meant: the name is no suite's, nor one of them mistyped."""
    from keel.pipeline import SUITES

    return suite == CAPABILITY or not difflib.get_close_matches(suite, SUITES.names(), n=1)


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
