"""What `keel judge` was asked, and the judge that it names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keel.cli import console

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.judge import Judge, RubricJudge
    from keel.settings import EndpointLimits
    from keel.store import Run
    from keel.types import Grader, Rollout

LIKELIHOOD = "likelihood"
THRESHOLD = 0.05


@dataclass(frozen=True)
class JudgingAsked:
    """What was asked on the command line."""

    run: Run
    spec: str
    url: str | None
    threshold: float | None
    limit: int | None
    limits: EndpointLimits | None
    texts: tuple[Path | None, Path | None]
    rubrics: Path | None
    opening: tuple[Any, ...]

    def check(self) -> None:
        """Refuse what makes no sense before a model is loaded."""
        from keel.errors import UsageError

        if self.spec != LIKELIHOOD:
            if self.threshold is not None:
                raise UsageError(f"--threshold is for --judge {LIKELIHOOD}, not for {self.spec}")
            return
        ours = {
            "--judge-url": self.url,
            "--rubrics": self.rubrics,
            "budget and no pace": self.limits,
        }
        given = [name for name, value in ours.items() if value is not None]
        if given:
            raise UsageError(f"the likelihood judge takes no {given[0]}; name another with --judge")

    def judge(self) -> Judge:
        """The judge, with its model where it has one."""
        from keel.judge import LikelihoodJudge

        if self.spec == LIKELIHOOD:
            threshold = THRESHOLD if self.threshold is None else self.threshold
            return LikelihoodJudge(self._own_engine(), threshold)
        return self.by_rubric(self.grader())

    def by_rubric(self, grader: Grader) -> RubricJudge:
        """A judge of rollouts out of a grader, told what it must know of the run's roles."""
        from keel.judge import RubricJudge
        from keel.prompts import load_library, read_roles, read_rubrics, read_traits

        library, (roles, traits) = load_library(), self.texts
        known = read_rubrics(self.rubrics)
        there = {rollout.prompt.role for rollout in self.run.rollouts()}
        sides = {r.prompt.side.trait for r in self.run.rollouts() if r.prompt.side}
        found = library.roles if roles is None else read_roles(roles).roles
        qualities = library.traits if traits is None else read_traits(traits)
        return RubricJudge(
            grader,
            known["role"],
            known["trait"],
            {one.name: (one.description, one.rubric) for one in found if one.name in there},
            {one.name: (one.description, one.rubric) for one in qualities if one.name in sides},
        )

    def chosen(self) -> list[Rollout]:
        """The answers to judge: all that can be, or some of them by a chance that never changes."""
        import hashlib

        rollouts = [r for r in self.run.rollouts() if self._can_judge(r)]
        if self.limit is None:
            return rollouts
        scored = [r for r in rollouts if not r.prompt.is_default]
        scored.sort(key=lambda r: hashlib.sha256(r.prompt.id.encode()).digest())
        return scored[: self.limit]

    def _can_judge(self, rollout: Rollout) -> bool:
        """The heuristic knows no traits."""
        return self.spec != "heuristic" or rollout.prompt.side is None

    def grader(self) -> Grader:
        """What labels by a rubric, with its model where it has one."""
        from keel.judge import open_grader

        is_own = self.spec in ("self", "channel")
        return open_grader(
            self.spec,
            url=self.url,
            engine=self._own_engine() if is_own else None,
            open_engine=lambda model: console.open_model(model, *self.opening),
            limits=self.limits,
        )

    def _own_engine(self) -> Engine:
        from keel import pipeline

        engine = console.open_model(self.run.identity.model_id, *self.opening)
        if self.run.has_map:
            pipeline.check_same_model(engine, self.run.axis)
        return engine


def endpoint_limits(
    pace: float | None,
    requests: int | None,
    usd: float | None,
    usd_in: float | None,
    usd_out: float | None,
) -> EndpointLimits | None:
    """What a judge behind an address must keep to; None where nothing was said."""
    given = {
        "requests_per_minute": pace,
        "max_requests": requests,
        "max_cost_usd": usd,
        "usd_per_million_in": usd_in,
        "usd_per_million_out": usd_out,
    }
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not asked:
        return None
    from keel.settings import EndpointLimits

    return EndpointLimits(**asked)
