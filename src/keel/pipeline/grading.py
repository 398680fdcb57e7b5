"""Answers judged by a rubric, kept on the way, and the judge stopped where it is of no use."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import chain

from keel.judge import stop_if_judge_fails
from keel.pipeline.progress import Counter, OnProgress
from keel.store import EvaluationFolder
from keel.types import Case, Grader, Rubric, Suite, SuiteLabels, UnsupervisedGrader, Verdict

_SAVE_EVERY_S = 0.5


def grade_cases(
    place: EvaluationFolder,
    judge: str,
    cases: Sequence[Case],
    *,
    grader: Grader,
    rubric: Rubric,
    on_progress: OnProgress,
) -> None:
    """Judge what was not judged yet. A judge that gave no reply is asked again, and clusters are
    made of all cases anew.

    Raises JudgeError where too many verdicts, those of earlier calls too, are of no use.
    """
    known = {} if isinstance(grader, UnsupervisedGrader) else place.verdicts(judge)
    kept = [known[c.id] for c in cases if c.id in known and known[c.id].status != "failed"]
    done = {verdict.case_id for verdict in kept}
    asked = [case for case in cases if case.id not in done]
    counter = Counter("judging", len(cases), on_progress)
    counter.add(len(kept))
    fresh = _saved(place, judge, grader.grade(asked, rubric) if asked else iter(()))
    for verdict in stop_if_judge_fails(chain(kept, fresh)):
        if verdict.case_id not in done:
            counter.add(1)


def labels_of(grader: Grader, suite: Suite, rubric: Rubric) -> SuiteLabels:
    """The rubric's labels; or those that the judge found in the answers it has graded."""
    if isinstance(grader, UnsupervisedGrader):
        return grader.labels(suite)
    return SuiteLabels(suite, rubric)


def _saved(place: EvaluationFolder, judge: str, verdicts: Iterator[Verdict]) -> Iterator[Verdict]:
    """The verdicts, kept on the way: whatever stops the judge, what it said is there."""
    waiting: list[Verdict] = []
    saved_at = time.monotonic()
    try:
        for verdict in verdicts:
            waiting.append(verdict)
            if time.monotonic() - saved_at > _SAVE_EVERY_S:
                place.append_verdicts(judge, waiting)
                waiting, saved_at = [], time.monotonic()
            yield verdict
    finally:
        if waiting:
            place.append_verdicts(judge, waiting)
        close = getattr(verdicts, "close", None)
        if close is not None:
            close()
