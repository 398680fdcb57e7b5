"""The whole of Keel once, in a few minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keel.engines import Engine
from keel.pipeline.extraction import extract
from keel.pipeline.holding import calibrate, replay_conversation
from keel.pipeline.progress import OnProgress, silent
from keel.pipeline.reporting import report
from keel.prompts import load_scenarios
from keel.settings import CalibrateSettings, ExtractSettings
from keel.store import RunFolder
from keel.types import Calibration, PersonaMap, Replay, Sampling


@dataclass(frozen=True)
class Tour:
    """What the demo found, stage by stage."""

    found: PersonaMap
    calibration: Calibration
    replay: Replay
    report: Path


def tour(
    engine: Engine,
    folder: RunFolder,
    *,
    seed: int = 0,
    command: str = "",
    on_progress: OnProgress = silent,
) -> Tour:
    """The whole of Keel once, at the smallest scale: map, floor, a provoking talk, the report."""
    settings = ExtractSettings.at_scale("smoke", seed)
    extraction = extract(engine, folder, settings, command=command, on_progress=on_progress)
    floor_settings = CalibrateSettings(rollouts=60, priced_rollouts=12, seed=seed)
    calibration = calibrate(engine, folder, floor_settings, on_progress=on_progress)
    scenario = load_scenarios()[0]
    replayed = replay_conversation(
        engine,
        folder,
        scenario.conversation,
        sampling=Sampling(max_new_tokens=64),
        seed=seed,
        on_progress=on_progress,
    )
    assert extraction.persona_map is not None  # roles were asked for
    return Tour(extraction.persona_map, calibration, replayed, report(folder))
