"""With an axis in hand: floors found, drift read, conversations held."""

from __future__ import annotations

from collections.abc import Sequence

from keel.calibrate import CalibrateSettings, calibrate_floors
from keel.drift import read_drift, replay
from keel.engines import Engine
from keel.errors import MissingArtifactError, ModelMismatchError
from keel.pipeline.progress import OnProgress, silent
from keel.store import Run, RunFolder
from keel.types import (
    AssistantAxis,
    Calibration,
    Conversation,
    DriftReading,
    Floors,
    Replay,
    Sampling,
)


def calibrate(
    engine: Engine,
    folder: RunFolder,
    settings: CalibrateSettings = CalibrateSettings(),
    *,
    on_progress: OnProgress = silent,
) -> Calibration:
    """Projections -> floors with their firing rates and prices, kept in the run."""
    run = folder.read()
    check_same_model(engine, run.axis)
    found = calibrate_floors(
        engine,
        run.axis,
        default=(r for r in run.rollouts() if r.prompt.is_default),
        roles=(r for r in run.rollouts() if r.prompt.is_role),
        settings=settings,
        on_progress=lambda done, total: on_progress("pricing floors", done, total),
    )
    folder.save_calibration(found)
    return found


def drift(
    engine: Engine,
    folder: RunFolder,
    conversations: Sequence[Conversation],
    *,
    layer: int | None = None,
    setting: str | None = None,
    on_progress: OnProgress = silent,
) -> list[DriftReading]:
    """The path of each conversation along the axis, kept in the run."""
    run = folder.read()
    check_same_model(engine, run.axis)
    floors = floors_of(run, setting)
    found = []
    layer = drift_layer(run.axis, floors) if layer is None else layer
    for reading in read_drift(engine, conversations, run.axis, layer=layer, floors=floors):
        folder.save_drift(reading)
        found.append(reading)
        on_progress("reading conversations", len(found), len(conversations))
    return found


def replay_conversation(
    engine: Engine,
    folder: RunFolder,
    conversation: Conversation,
    *,
    sampling: Sampling,
    seed: int = 0,
    setting: str | None = None,
    layer: int | None = None,
    on_progress: OnProgress = silent,
) -> Replay:
    """The conversation's user turns answered anew, uncapped and capped, kept in the run."""
    run = folder.read()
    check_same_model(engine, run.axis)
    floors = floors_of(run, setting)
    if floors is None:
        raise MissingArtifactError(
            f"{folder.path} has no floors to cap with; make them: keel calibrate {folder.path}"
        )
    total = sum(m.speaker == "user" for m in conversation.messages)
    turns = iter(range(1, total + 1))
    found = replay(
        engine,
        conversation,
        run.axis,
        floors=floors,
        sampling=sampling,
        seed=seed,
        layer=drift_layer(run.axis, floors) if layer is None else layer,
        on_turn=lambda turn: on_progress("answering, uncapped and capped", next(turns), total),
    )
    folder.save_replay(found)
    return found


def drift_layer(axis: AssistantAxis, floors: Floors | None) -> int:
    """Where drift is read: the recommended layer, or the capped layer nearest to it."""
    if floors is None:
        return axis.layer
    return min(floors.layers, key=lambda layer: (abs(layer - axis.layer), layer))


def floors_of(run: Run, setting: str | None) -> Floors | None:
    """The named setting, the default one, or None where the run was not calibrated."""
    if setting is not None:
        return run.floors_named(setting)
    return run.floors if run.has_calibration else None


def check_same_model(engine: Engine, axis: AssistantAxis) -> None:
    """Raise ModelMismatchError when an axis was made on another model than the engine runs."""
    problem = axis.identity.mismatch(engine.identity)
    if problem is not None:
        raise ModelMismatchError(
            f"the run's axis belongs to another model: {problem}; use the model that it was made "
            "on, or extract an axis of this one to another folder"
        )
