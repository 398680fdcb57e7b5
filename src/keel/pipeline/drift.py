"""Reads conversations along a run's axis, or answers them anew, uncapped and capped."""

from __future__ import annotations

from collections.abc import Sequence

from keel.drift import read_drift, replay
from keel.engines import Engine
from keel.errors import MissingArtifactError
from keel.pipeline.axis import check_same_model, drift_layer, floors_of
from keel.pipeline.progress import OnProgress, silent
from keel.settings import DriftSettings
from keel.store import RunFolder
from keel.types import Conversation, DriftReading, Replay


def drift(
    engine: Engine,
    folder: RunFolder,
    conversations: Sequence[Conversation],
    settings: DriftSettings = DriftSettings(),
    *,
    on_progress: OnProgress = silent,
) -> list[DriftReading]:
    """The path of each conversation along the axis, kept in the run."""
    run = folder.read()
    check_same_model(engine, run.axis)
    floors = floors_of(run, settings.setting)
    layer = drift_layer(run.axis, floors) if settings.layer is None else settings.layer
    readings = []
    for reading in read_drift(engine, conversations, run.axis, layer=layer, floors=floors):
        folder.save_drift(reading)
        readings.append(reading)
        on_progress("reading conversations", len(readings), len(conversations))
    return readings


def replay_conversation(
    engine: Engine,
    folder: RunFolder,
    conversation: Conversation,
    settings: DriftSettings = DriftSettings(),
    *,
    on_progress: OnProgress = silent,
) -> Replay:
    """The conversation's user turns answered anew, uncapped and capped, kept in the run."""
    run = folder.read()
    check_same_model(engine, run.axis)
    floors = floors_of(run, settings.setting)
    if floors is None:
        raise MissingArtifactError(
            f"{folder.path} has no floors to cap with; make them: keel calibrate {folder.path}"
        )
    total = sum(m.speaker == "user" for m in conversation.messages)
    turns = iter(range(1, total + 1))
    replayed = replay(
        engine,
        conversation,
        run.axis,
        floors=floors,
        sampling=settings.sampling,
        seed=settings.seed,
        layer=drift_layer(run.axis, floors) if settings.layer is None else settings.layer,
        on_turn=lambda turn: on_progress("answering, uncapped and capped", next(turns), total),
    )
    folder.save_drift(replayed)
    return replayed
