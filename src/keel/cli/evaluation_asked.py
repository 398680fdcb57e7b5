"""What `keel evaluate` was asked, whoever answers and whoever judges."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keel.settings import EvaluateSettings

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.evaluate import Answerer, Arm, ServedAnswerer
    from keel.pipeline import Evaluation
    from keel.store import Run
    from keel.types import Grader, Rubric, Suite

BASE = ("base-purpose", "base-traits")
CAPABILITY = "capability"


@dataclass(frozen=True)
class Asked:
    """What was asked on the command line, whoever answers."""

    run: Run
    suite: str
    arms: str
    limit: int | None
    data: Path | None
    seed: int
    name: str
    tasks: tuple[str, ...]
    longest: int | None = None
    temperature: float | None = None
    overwrite: bool = False
    on: str | None = None
    """Another model that answers; None is the run's own."""
    is_served: bool = False

    @classmethod
    def of(cls, run: Run, suite: str, settings: EvaluateSettings, overwrite: bool) -> Asked:
        """From the settings."""
        s = settings
        asked = cls(run, suite, s.arms, s.limit, s.data, s.seed, s.name, s.tasks)
        asked = replace(asked, longest=s.max_new_tokens, temperature=s.temperature, on=s.on)
        return replace(asked, overwrite=overwrite, is_served=s.endpoint is not None)

    def check(self) -> None:
        """Refuse what makes no sense before a model is loaded."""
        from keel.errors import UsageError
        from keel.evaluate import parse_arms
        from keel.pipeline import is_swept

        parse_arms(self.arms)
        if is_swept(self.name):
            raise UsageError(
                f"--name is {self.name!r}, names that begin so are a sweep's own; choose another"
            )
        if self.on is not None and (self.is_served or is_for_lm_eval(self.suite)):
            raise UsageError("--on is neither for --endpoint nor for capability; leave it out")
        if not is_for_lm_eval(self.suite):
            _ = self.items
            if self.tasks:
                raise UsageError(f"--task is for the suite {CAPABILITY}, not for {self.suite}")

    @property
    def items(self) -> Suite:
        """The suite with the sampling that was asked for."""
        from keel import pipeline
        from keel.evaluate import first_items

        found = first_items(pipeline.open_suite(self.suite, self.data), self.limit)
        given = {"max_new_tokens": self.longest, "temperature": self.temperature}
        changes: dict[str, Any] = {name: one for name, one in given.items() if one is not None}
        return replace(found, sampling=replace(found.sampling, **changes))

    def served_by(
        self, url: str, model: str | None
    ) -> tuple[ServedAnswerer, tuple[Arm, ...], tuple[str, ...]]:
        """The model behind an address, its arms, and what has to be said of them."""
        from keel.evaluate import ServedAnswerer, parse_arms, served_arms

        served = served_arms(parse_arms(self.arms))
        name = self.run.identity.model_id if model is None else model
        return ServedAnswerer(name, url, served.settings), served.arms, served.warnings

    def evaluation(
        self,
        answerer: Answerer,
        arms: tuple[Arm, ...],
        judge: tuple[Grader, Rubric],
        warnings: tuple[str, ...] = (),
        facts: dict[str, str] | None = None,
    ) -> Evaluation:
        """Builds the pipeline's Evaluation from the options."""
        from keel.pipeline import Evaluation

        limit = {} if self.limit is None else {"limit": str(self.limit)}
        data = {} if self.data is None else {"data": self.data.name}
        return Evaluation(
            suite=self.items,
            arms=arms,
            answerer=answerer,
            grader=judge[0],
            rubric=judge[1],
            name=self.name or ("" if self.on is None else f"{self.suite}-on-{Path(self.on).name}"),
            seed=self.seed,
            facts={**limit, **data, **(facts or {})},
            warnings=warnings,
            command=f"keel evaluate {self.run.path} {self.suite} with the same options",
        )


def judge_of(settings: EvaluateSettings, suite: str, engine: Engine | None) -> Grader:
    """The judge; where none was named, clusters for base models and the heuristic else."""
    from keel.judge import open_grader
    from keel.prompts import load_embedder

    return open_grader(
        settings.judge or ("clusters" if suite in BASE else "heuristic"),
        url=settings.grader.url,
        engine=engine,
        limits=settings.grader.given_limits,
        load_embedder=load_embedder,
    )


def is_for_lm_eval(suite: str) -> bool:
    """Whether a name is none of our suites', nor one of them mistyped."""
    from keel.pipeline import SUITES

    return suite == CAPABILITY or not difflib.get_close_matches(suite, SUITES.names(), n=1)
