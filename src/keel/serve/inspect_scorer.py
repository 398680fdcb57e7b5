"""An Inspect scorer for drift: the run's alarm over each sample's answers, turn by turn."""

from __future__ import annotations

import math
from typing import Any

from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, mean, metric, scorer
from inspect_ai.solver import TaskState

from keel.alarm import State, advance
from keel.errors import UsageError
from keel.store import load_alarm

TURN = "keel_turn"
"""Key of an answer's metadata: its mean raw projection at the alarm's layer, and its tokens."""


@metric  # type: ignore[untyped-decorator]
def alarm_rate() -> Metric:
    """Share of samples whose conversation raised the alarm."""

    def measure(scores: list[SampleScore]) -> float:
        return _share(scores)

    return measure


@metric  # type: ignore[untyped-decorator]
def alarm_rate_stderr() -> Metric:
    """Standard error of the share, samples taken as independent."""

    def measure(scores: list[SampleScore]) -> float:
        share = _share(scores)
        return math.sqrt(share * (1 - share) / max(1, len(scores)))

    return measure


@scorer(metrics=[mean(), alarm_rate(), alarm_rate_stderr()])  # type: ignore[untyped-decorator]
def drift_alarm(run: str, rate: float | None = None) -> Scorer:
    """Evidence for drift at the end of each sample's conversation, by the alarm of a run.

    Answers must come from a `keel/RUN` model of a run with an alarm. Raises UsageError for answers
    without a level.
    """
    alarm = load_alarm(run)

    async def score(state: TaskState, target: Target) -> Score:
        conversation, verdict = State(), None
        for message in state.messages:
            if message.role != "assistant":
                continue
            turn: dict[str, Any] | None = (message.metadata or {}).get(TURN)
            if turn is None:
                raise UsageError(
                    "an answer has no level along the axis; evaluate with the model keel/RUN of a "
                    "run with an alarm: keel drift calibrate RUN"
                )
            conversation, verdict = advance(
                alarm, conversation, turn["mean"], turn["tokens"], rate=rate
            )
        if verdict is None:
            return Score(value=1.0, metadata={"state": "unknown"})
        return Score(
            value=verdict.evidence,
            metadata={
                "state": verdict.state,
                "since": verdict.since,
                "gaps": verdict.gaps,
                "expected_gaps": verdict.expected_gaps,
            },
        )

    return score


def _share(scores: list[SampleScore]) -> float:
    """Share of scores whose state is `alarm`; 0 without any."""
    states = [(each.score.metadata or {}).get("state") for each in scores]
    return states.count("alarm") / max(1, len(states))
