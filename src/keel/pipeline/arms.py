"""A run's parts made into arms: the axis, its floors, role vectors, the calibration answers."""

from __future__ import annotations

from collections.abc import Sequence

from keel.calibrate import choose_rollouts
from keel.engines import Engine
from keel.evaluate import Arm, ArmSources, ArmSpec, make_arms
from keel.pipeline.axis import check_same_model, floors_of
from keel.pipeline.progress import OnProgress, silent
from keel.store import Run
from keel.types import AssistantAxis, Rollout


def arms_of(
    engine: Engine,
    run: Run,
    specs: Sequence[ArmSpec],
    *,
    axis: AssistantAxis | None = None,
    seed: int = 0,
    on_progress: OnProgress = silent,
) -> tuple[Arm, ...]:
    """The arms of these specs, made of the run's axis, floors and vectors; the same seed draws the
    same controls.

    `axis` is the run's own where none is given; one that was transferred to another model may be.
    """
    axis = run.axis if axis is None else axis
    check_same_model(engine, axis)
    sources = ArmSources(
        axis=axis,
        floors=floors_of(run, None),
        floors_named=run.floors_named,
        role_vectors=lambda: run.persona_map.vectors,
        answers=lambda: _calibration_answers(run),
        run=str(run.path),
    )
    return make_arms(
        specs,
        sources,
        engine,
        seed=seed,
        on_progress=lambda done, total: on_progress("matching controls", done, total),
    )


def _calibration_answers(run: Run) -> list[Rollout]:
    """The answers that the run's floors were calibrated on."""
    calibration = run.calibration
    default = (r for r in run.rollouts() if r.prompt.is_default)
    roles = (r for r in run.rollouts() if r.prompt.is_role)
    kinds = (
        choose_rollouts(kind, calibration.answers, calibration.seed) for kind in (default, roles)
    )
    return [rollout for kind in kinds for rollout in kind]
