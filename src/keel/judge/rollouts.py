"""Judging rollouts: what a judge is, any grader as a judge of roles and traits, and a summary.

Also stops a run whose judge cannot be relied on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Protocol, runtime_checkable

import numpy as np

from keel.errors import JudgeError, UsageError
from keel.seeds import text_hash
from keel.types import Case, Grader, Judgement, Label, Rollout, Rubric, Verdict
from keel.words import tenths

Texts = tuple[str, str]
"""A role's or trait's description, and its own rubric."""

_THIRD = 100 / 3
_DEVIATIONS = 3


@runtime_checkable
class Judge(Protocol):
    """Labels rollouts. One that cannot be judged gets a status that says so, never a guess."""

    @property
    def name(self) -> str:
        """Names the judge and its settings, in the run folder and the report."""

    def judge(self, rollouts: Sequence[Rollout]) -> Iterator[Judgement]:
        """One judgement per rollout, in any order."""


@dataclass(frozen=True)
class RubricJudge:
    """Judges by a grader's scores: roles 0 to 3, traits 0 to 100; the default plays no role.

    A role is `fully` played at 3, `somewhat` at 2, else not at all (Lu et al. 2026, section 2.1).
    A trait counts as shown in thirds of its scale; pairs of answers are compared by the score
    itself.
    """

    grader: Grader
    role_rubric: Rubric
    trait_rubric: Rubric
    roles: Mapping[str, Texts]
    traits: Mapping[str, Texts]

    @property
    def name(self) -> str:
        """The grader's name, with a hash of both rubrics and of the texts on roles and traits."""
        texts = [self.role_rubric.hash, self.trait_rubric.hash]
        texts += [repr(sorted(known.items())) for known in (self.roles, self.traits)]
        return f"{self.grader.name}-{text_hash(repr(texts), 6)}"

    def judge(self, rollouts: Sequence[Rollout]) -> Iterator[Judgement]:
        """One judgement per rollout, each as soon as it is known, in any order.

        Raises JudgeError, after those that could be had, where too many verdicts are of no use.
        """
        for rollout in rollouts:
            if rollout.prompt.is_default:
                yield Judgement(rollout.prompt.id, "unjudged")
        for rubric, cases in self.cases(rollouts):
            for verdict in stop_if_judge_fails(self.grader.grade(cases, rubric)):
                yield _judgement(verdict, is_role=rubric is self.role_rubric)

    def cases(self, rollouts: Sequence[Rollout]) -> list[tuple[Rubric, list[Case]]]:
        """The grader's cases by rubric, without a rubric that judges none."""
        roles = [
            Case(r.prompt.id, r.conversation, self._role_fields(r))
            for r in rollouts
            if r.prompt.is_role
        ]
        traits = [
            Case(r.prompt.id, r.conversation, self._trait_fields(r.prompt.side.trait))
            for r in rollouts
            if r.prompt.side
        ]
        by_rubric = [(self.role_rubric, roles), (self.trait_rubric, traits)]
        return [(rubric, cases) for rubric, cases in by_rubric if cases]

    def _role_fields(self, rollout: Rollout) -> dict[str, str]:
        role, system = rollout.prompt.role, rollout.prompt.conversation.system
        # Of a role that nobody described, the system prompt that set it.
        set_by = f"It was set by these words: {system}" if system else ""
        description, marks = self.roles.get(role, (set_by, ""))
        return {
            "role": role.replace("_", " "),
            "description": description,
            "role_rubric": marks or "What one would expect of such a speaker.",
        }

    def _trait_fields(self, trait: str) -> dict[str, str]:
        if trait not in self.traits:
            raise UsageError(
                f"nothing is known of the trait {trait!r}, so answers cannot be judged by it; "
                "give its file (--traits)"
            )
        description, marks = self.traits[trait]
        name = trait.replace("_", " ")
        return {"trait": name, "description": description, "trait_rubric": marks}


def _judgement(verdict: Verdict, *, is_role: bool) -> Judgement:
    if verdict.status != "ok" or verdict.score is None:
        status = verdict.status if verdict.status != "ok" else "unparsed"
        return Judgement(verdict.case_id, "none", status=status)
    # Of a role's scores, 0 to 3, the two lower ones play nothing.
    fully, somewhat = (3.0, 2.0) if is_role else (2 * _THIRD, _THIRD)
    label: Label = "somewhat" if verdict.score >= somewhat else "none"
    return Judgement(verdict.case_id, "fully" if verdict.score >= fully else label, verdict.score)


@dataclass(frozen=True)
class JudgementSummary:
    """Counts and the distribution of scores."""

    labels: dict[str, int]
    statuses: dict[str, int]
    deciles: tuple[float, ...]
    """Scores at 0, 10, ... 100 %; empty where nothing was scored."""


def summarise(judgements: Iterable[Judgement]) -> JudgementSummary:
    """Counts by label and status, and the deciles of the scores."""
    listed = list(judgements)
    scores = [j.score for j in listed if j.score is not None]
    deciles = np.percentile(scores, range(0, 101, 10)).tolist() if scores else []
    return JudgementSummary(
        dict(Counter(j.label for j in listed)),
        dict(Counter(j.status for j in listed)),
        tuple(deciles),
    )


def stop_if_judge_fails(
    verdicts: Iterator[Verdict], *, limit: float = 0.02, at_least: int = 50
) -> Iterator[Verdict]:
    """The verdicts; then JudgeError if more than a share of `limit` is unparsed or failed.

    At the end the share itself decides, but a single bad verdict among good ones is never held
    against a judge: of few it would be a large share. On the way, from `at_least` verdicts on, it
    stops a judge that has more bad ones than three standard deviations above what the limit
    allows: one that keeps to the limit may well be above it for a while, by chance.
    Whatever was judged has been given before it raises, and the judge is stopped.
    """
    if not 0 <= limit <= 1:
        raise UsageError(f"limit is {limit}, expected a share from 0 to 1")
    counts: Counter[str] = Counter()
    bad, last, is_hopeless = 0, "", False
    try:
        for verdict in verdicts:
            yield verdict
            counts[verdict.status] += 1
            if verdict.status != "ok":
                bad, last = bad + 1, f"{verdict.case_id}: {verdict.reason}"
                allowed = limit * counts.total()
                is_far_above = bad > allowed + _DEVIATIONS * sqrt(allowed)
                if is_hopeless := counts.total() >= at_least and is_far_above:
                    break
        total = counts.total()
        if is_hopeless or (bad > limit * total and (bad > 1 or bad == total)):
            raise JudgeError(
                f"{bad} of {total} verdicts are of no use ({counts['unparsed']} unparsed, "
                f"{counts['failed']} failed: {tenths(bad / total)}, above {tenths(limit)}), the "
                f"last being {last!r}; look at the replies, then take another judge or rubric"
            )
    finally:
        close = getattr(verdicts, "close", None)
        if close is not None:
            close()
