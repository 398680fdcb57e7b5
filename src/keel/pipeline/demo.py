"""Runs every stage once, at the smallest scale, in a few minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keel.engines import Engine
from keel.pipeline.axis import calibrate, replay_conversation
from keel.pipeline.extract import extract
from keel.pipeline.progress import OnProgress, silent
from keel.pipeline.report import report
from keel.prompts import load_scenarios
from keel.settings import CalibrateSettings, DriftSettings, ExtractSettings
from keel.store import RunFolder
from keel.types import Calibration, PersonaMap, Replay, Sampling


@dataclass(frozen=True)
class Demo:
    """What each stage of the demo made."""

    persona_map: PersonaMap
    calibration: Calibration
    replay: Replay
    report: Path


def run_demo(
    engine: Engine,
    folder: RunFolder,
    *,
    seed: int = 0,
    command: str = "",
    on_progress: OnProgress = silent,
) -> Demo:
    """Map, floor, a provoking conversation replayed, and the report, at the smallest scale."""
    settings = ExtractSettings.at_scale("smoke", seed)
    extraction = extract(engine, folder, settings, command=command, on_progress=on_progress)
    floor_settings = CalibrateSettings(rollouts=60, priced_rollouts=12, seed=seed)
    calibration = calibrate(engine, folder, floor_settings, on_progress=on_progress)
    scenario = load_scenarios()[0]
    replayed = replay_conversation(
        engine,
        folder,
        scenario.conversation,
        DriftSettings(sampling=Sampling(max_new_tokens=64), seed=seed),
        on_progress=on_progress,
    )
    assert extraction.persona_map is not None  # at the smallest scale roles answer
    return Demo(extraction.persona_map, calibration, replayed, report(folder))
