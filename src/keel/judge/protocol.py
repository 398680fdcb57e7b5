"""What a judge is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from keel.types import Judgement, Rollout


@runtime_checkable
class Judge(Protocol):
    """Labels rollouts. One that cannot be judged gets a status that says so, never a guess."""

    @property
    def name(self) -> str:
        """Names the judge and its settings, in the run folder and the report."""

    def judge(self, rollouts: Sequence[Rollout]) -> Iterator[Judgement]:
        """One judgement per rollout, in any order."""
