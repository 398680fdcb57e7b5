"""What a set of judgements amounts to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from keel.types import Judgement


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
