"""Gathers what an experiment tracker is sent of a run: its numbers, by name, and its facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from keel.pipeline.reporting import run_facts
from keel.report import UNTRAINED_AUC, TrackedRun
from keel.store import Run
from keel.types import DomainPath, DriftStudy, Interval


def tracked_run(run: Run, page: Path) -> TrackedRun:
    """The run's facts as parameters, its main numbers with their intervals, and its curves.

    `page` is its report. Intervals are sent as three numbers: the value, `…/low` and `…/high`.
    """
    return TrackedRun(
        name=run.path.resolve().name,
        parameters=dict(run_facts(run)),
        numbers=dict(_numbers(run)),
        series=dict(_series(run)),
        page=page,
    )


def _numbers(run: Run) -> Iterator[tuple[str, float]]:
    if run.has_map:
        quality = run.persona_map.quality[run.axis.layer]
        yield "axis/layer", run.axis.layer
        yield from _interval("axis/auc", quality.auc)
        low, high = UNTRAINED_AUC if run.untrained is None else run.untrained.auc_range
        yield from (("axis/auc_untrained/low", low), ("axis/auc_untrained/high", high))
        yield from _interval("axis/d_prime", quality.d_prime)
        yield "axis/split_half_questions", quality.split_half_questions
        yield "axis/split_half_roles", quality.split_half_roles
    if run.has_calibration:
        chosen = run.calibration.setting
        yield from _interval("floors/price_nats", chosen.price or chosen.kl_default)
        yield from _interval("floors/effect_gaps", chosen.effect or chosen.shift_gaps)
        yield "floors/firing_rate", chosen.firing_rate
    for name, result in run.evaluations().items():
        for arm in result.arms:
            yield from _interval(f"{name}/{arm.arm}/rate", arm.rate)
            if arm.difference is not None:
                yield from _interval(f"{name}/{arm.arm}/difference", arm.difference)
    for name, study in run.studies().items():
        yield f"study/{name}/conversations", study.conversations
        for path in _with_history(study):
            before = f"study/{name}/{path.domain}/{path.arm}"
            yield from _interval(f"{before}/last_turn_gaps", path.levels[-1])
            for measure in ("slope", "slope_over_neutral"):
                if (slope := getattr(path, measure)) is not None:
                    yield from _interval(f"{before}/{measure}_gaps_per_turn", slope)
        for each in study.differences:
            before = f"study/{name}/{each.domain}/{each.arm}"
            yield from _interval(f"{before}/last_turn_difference_gaps", each.last_turn)
        for rate in study.harm:
            yield from _interval(f"study/{name}/{rate.domain}/{rate.arm}/harm_rate", rate.rate)


def _with_history(study: DriftStudy) -> list[DomainPath]:
    """Each domain's path under each arm, its turns read as they were said."""
    return [path for path in study.paths if path.reading == "with history" and path.levels]


def _interval(name: str, value: Interval | float) -> Iterator[tuple[str, float]]:
    if isinstance(value, Interval):
        yield from ((name, value.value), (f"{name}/low", value.low), (f"{name}/high", value.high))
    else:
        yield name, value


def _series(run: Run) -> Iterator[tuple[str, Sequence[float]]]:
    if run.has_map:
        yield "layers/auc", [quality.auc.value for quality in run.persona_map.quality]
        yield "layers/d_prime", [quality.d_prime.value for quality in run.persona_map.quality]
    for reading in run.drift_readings():
        yield f"drift/{reading.conversation_id}", [turn.gaps for turn in reading.turns]
    for replay in run.replays():
        before = f"replay/{replay.conversation_id}"
        yield f"{before}/uncapped", [turn.uncapped.gaps for turn in replay.turns]
        yield f"{before}/capped", [turn.capped.gaps for turn in replay.turns]
    for name, study in run.studies().items():
        for path in _with_history(study):
            levels = [level.value for level in path.levels]
            yield f"study/{name}/{path.domain}/{path.arm}", levels
