"""keel judge: score the rollouts of a run; hold judges against each other; label by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from keel.cli import console, judge_agree, judge_label, results
from keel.cli.extract import show_map
from keel.cli.help import PlainCommand, running_by_default
from keel.cli.options import Given, takes
from keel.settings import EndpointLimits, GraderSettings, JudgeSettings, OpeningSettings
from keel.words import signed

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.judge import Judge, RubricJudge
    from keel.store import Run
    from keel.types import Grader, Rollout

LIKELIHOOD = "likelihood"

EXAMPLES = """
Examples:

    keel judge runs/smollm2

    keel judge runs/smollm2 --judge heuristic --limit 200

    keel judge agree runs/smollm2 likelihood heuristic

    keel judge label runs/smollm2 -o mine.csv
"""
ROLLOUTS_EXAMPLES = """
Examples:

    keel judge runs/smollm2 --threshold 0.1 --remap

    keel judge runs/smollm2 --judge local:my-larger-model --limit 500

    keel judge runs/smollm2 --judge openai:my-model --judge-url http://127.0.0.1:8000/v1 --dry-run
"""


app = typer.Typer(
    cls=running_by_default("rollouts"),
    help="Score how far a run's answers play their roles; hold judges against each other or "
    "against a person.\n\n`keel judge RUN` is short for `keel judge rollouts RUN`, whose help "
    "lists the options.",
    rich_markup_mode=None,
)


@app.command("rollouts", cls=PlainCommand, epilog=ROLLOUTS_EXAMPLES)
@takes(JudgeSettings(), OpeningSettings())
def judge(
    run: console.Run,
    dry_run: console.DryRun = False,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Score how far each answer plays its role.

    By its likelihood with and without the role, or by a rubric and whichever judge you name.

    Interrupted, it goes on where it stopped when called again.
    """
    from keel.store import RunFolder, open_run

    judging = Judging(open_run(run), given.over(JudgeSettings()), given.over(OpeningSettings()))
    judging.check(given)
    RunFolder(run).check_free()
    if dry_run:
        console.print_price(judging.price(), json)
    else:
        _judge(judging, json)


def _judge(judging: Judging, json: bool) -> None:
    from keel import pipeline
    from keel.report import Account, Section, Table
    from keel.store import RunFolder

    judge, chosen, settings = judging.judge(), judging.chosen(), judging.settings
    path = judging.run.path
    with console.progress() as progress:
        summary, extraction = pipeline.judge(
            RunFolder(path),
            judge,
            mapping=settings.mapping if settings.remap else None,
            only={rollout.prompt.id for rollout in chosen},
            on_progress=progress,
        )
    if json:
        mapped = {} if extraction is None else {"map": results.extraction_record(extraction)}
        record = {"run": path, "judge": judge.name, **console.plain(summary), **mapped}
        console.print_json(record)
        return
    is_likelihood = settings.judge == LIKELIHOOD
    what = "Nats per token gained from the role prompt" if is_likelihood else "Scores"
    deciles = Table(
        f"{what}, by decile",
        ("share of answers below", "score"),
        tuple((f"{10 * n} %", signed(score)) for n, score in enumerate(summary.deciles)),
        bars=tuple(summary.deciles),
    )
    counts = ", ".join(f"{count} {label}" for label, count in summary.labels.items())
    section = Section("labels", f"Labels by {judge.name}", (f"{counts}.",), tables=(deciles,))
    results.print_account(Account("", "", (), (section,)))
    if extraction is not None:
        show_map(extraction, path, json)


@dataclass(frozen=True)
class Judging:
    """The judging of one run's answers: its judge, and the answers that are judged."""

    run: Run
    settings: JudgeSettings
    opening: OpeningSettings

    def check(self, given: Given) -> None:
        """Refuse what makes no sense before a model is loaded."""
        from keel.errors import UsageError

        if self.settings.judge != LIKELIHOOD:
            if "--threshold" in given.values:
                raise UsageError(
                    f"--threshold is for --judge {LIKELIHOOD}, not for {self.settings.judge}"
                )
            return
        of_others = given.names(GraderSettings())
        if of_others:
            of_limits = given.names(EndpointLimits())
            what = "budget and no pace" if of_others[0] in of_limits else of_others[0]
            raise UsageError(f"the likelihood judge takes no {what}; name another with --judge")

    def judge(self) -> Judge:
        """The judge, with its model where it has one."""
        from keel.judge import LikelihoodJudge

        if self.settings.judge == LIKELIHOOD:
            return LikelihoodJudge(self._own_engine(), self.settings.threshold)
        return self.by_rubric(self.grader())

    def by_rubric(self, grader: Grader) -> RubricJudge:
        """A judge of rollouts by a grader, with the descriptions of the run's roles and traits."""
        from keel.judge import RubricJudge
        from keel.prompts import load_library, read_roles, read_rubrics, read_traits

        library, folders = load_library(), self.settings
        rubrics = read_rubrics(folders.grader.rubrics)
        names = {rollout.prompt.role for rollout in self.run.rollouts()}
        sides = {r.prompt.side.trait for r in self.run.rollouts() if r.prompt.side}
        roles = library.roles if folders.roles is None else read_roles(folders.roles).roles
        traits = library.traits if folders.traits is None else read_traits(folders.traits)
        return RubricJudge(
            grader,
            rubrics["role"],
            rubrics["trait"],
            {r.name: (r.description, r.rubric) for r in roles if r.name in names},
            {
                trait.name: (trait.description, trait.rubric)
                for trait in traits
                if trait.name in sides
            },
        )

    def chosen(self) -> list[Rollout]:
        """The answers to judge: all that can be, or the first of a fixed random order."""
        import hashlib

        # The heuristic knows no traits.
        is_blind_to_traits = self.settings.judge == "heuristic"
        rollouts = [r for r in self.run.rollouts() if not (is_blind_to_traits and r.prompt.side)]
        if self.settings.limit is None:
            return rollouts
        scored = [r for r in rollouts if not r.prompt.is_default]
        scored.sort(key=lambda r: hashlib.sha256(r.prompt.id.encode()).digest())
        return scored[: self.settings.limit]

    def grader(self) -> Grader:
        """The grader that labels by a rubric, with its model where it has one."""
        from keel.judge import open_grader

        is_own = self.settings.judge in ("self", "channel")
        return open_grader(
            self.settings.judge,
            url=self.settings.grader.url,
            engine=self._own_engine() if is_own else None,
            open_engine=lambda model: console.open_model(model, self.opening),
            limits=self.settings.grader.given_limits,
        )

    def price(self) -> dict[str, Any]:
        """Number of answers; for an endpoint also requests, tokens and dollars of those left."""
        from keel.judge import EndpointGrader

        chosen = [r for r in self.chosen() if not r.prompt.is_default]
        price: dict[str, Any] = {"judge": self.settings.judge, "answers": len(chosen)}
        if not self.settings.judge.startswith("openai:"):
            return price
        grader = self.grader()
        assert isinstance(grader, EndpointGrader)
        judge = self.by_rubric(grader)
        known = self.run.judgements(judge.name)
        left = [r for r in chosen if r.prompt.id not in known]
        prices = [grader.price(cases, rubric) for rubric, cases in judge.cases(left)]
        costs = [p.cost_usd for p in prices if p.cost_usd is not None]
        most = [p.most_cost_usd for p in prices if p.most_cost_usd is not None]
        return {
            **price,
            "requests": sum(p.requests for p in prices),
            "tokens_sent": sum(p.tokens.sent for p in prices),
            "tokens_received": sum(p.tokens.received for p in prices),
            "cost_usd": round(sum(costs), 4) if costs else None,
            "cost_usd_at_most": round(sum(most), 4) if most else None,
        }

    def _own_engine(self) -> Engine:
        from keel import pipeline

        engine = console.open_model(self.run.identity.model_id, self.opening)
        if self.run.has_map:
            pipeline.check_same_model(engine, self.run.axis)
        return engine


app.command("agree", cls=PlainCommand, epilog=judge_agree.EXAMPLES)(judge_agree.agree)
app.command("label", cls=PlainCommand, epilog=judge_label.EXAMPLES)(judge_label.label)
