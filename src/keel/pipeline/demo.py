"""Runs every stage once at the smallest scale, or shows a run that was recorded so."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory

from keel.engines import Engine, unpacked_fingerprint
from keel.errors import MissingArtifactError, UsageError
from keel.pipeline.axis import calibrate, replay_conversation
from keel.pipeline.extracting import extract
from keel.pipeline.progress import OnProgress, silent
from keel.pipeline.reporting import RECORDING, read_recording, report
from keel.prompts import load_scenarios
from keel.settings import CalibrateSettings, DriftSettings, ExtractSettings
from keel.store import Run, RunFolder, open_run
from keel.types import Calibration, PersonaMap, Replay, Sampling

RECORDED_MODEL = "smollm2"
"""The model whose run ships with Keel."""
_RECORDED = "recorded-demo.zip"


@dataclass(frozen=True)
class Demo:
    """What each stage of the demo made."""

    persona_map: PersonaMap
    calibration: Calibration
    replay: Replay
    report: Path
    recording: str = ""
    """Where and when it was computed, of the run that ships with Keel; empty of one made here."""


def run_demo(
    engine: Engine,
    folder: RunFolder,
    *,
    seed: int = 0,
    command: str = "",
    on_progress: OnProgress = silent,
) -> Demo:
    """Map, floor, a provoking conversation replayed, and the report, at the smallest scale.

    Stages whose results are in the folder are not computed again. Raises UsageError where it holds
    the recorded run.
    """
    if read_recording(folder.path):
        raise UsageError(
            f"{folder.path} holds the run that ships with Keel, expected a folder to compute one "
            f"in; name another one: -o {folder.path}-anew"
        )
    settings = ExtractSettings.at_scale("smoke", seed)
    extraction = extract(engine, folder, settings, command=command, on_progress=on_progress)
    calibration = _calibration(engine, folder, seed, on_progress)
    replayed = _replay(engine, folder, seed, calibration, on_progress)
    assert extraction.persona_map is not None  # at the smallest scale roles answer
    return Demo(extraction.persona_map, calibration, replayed, report(folder))


def _calibration(
    engine: Engine, folder: RunFolder, seed: int, on_progress: OnProgress
) -> Calibration:
    """The run's own calibration where it is the demo's, or a new one."""
    run = folder.read()
    settings = CalibrateSettings(rollouts=60, priced_rollouts=12, seed=seed)
    if run.has_calibration:
        made = run.calibration
        if (made.answers, made.seed, made.pool) == (settings.rollouts, seed, settings.pool):
            return made
    return calibrate(engine, folder, settings, on_progress=on_progress)


def _replay(
    engine: Engine, folder: RunFolder, seed: int, calibration: Calibration, on_progress: OnProgress
) -> Replay:
    """The run's own replay of the demo's conversation with these floors, or a new one."""
    conversation = load_scenarios()[0].conversation
    kept = _kept_replay(folder.read(), calibration)
    if kept is not None:
        return kept
    settings = DriftSettings(sampling=Sampling(max_new_tokens=64), seed=seed)
    return replay_conversation(engine, folder, conversation, settings, on_progress=on_progress)


def _kept_replay(run: Run, calibration: Calibration) -> Replay | None:
    name = load_scenarios()[0].conversation.id
    return next(
        (
            replay
            for replay in run.replays()
            if (replay.conversation_id, replay.setting) == (name, calibration.chosen)
        ),
        None,
    )


def show_demo(path: Path) -> Demo:
    """The demo's results in a folder; the run that ships with Keel is put there if it is absent.

    Needs no model. Raises MissingArtifactError for a run without floors or a replay.
    """
    if not path.exists():
        RunFolder(path).check_free()
        _unpack(path)
    run = open_run(path)
    replay = _kept_replay(run, run.calibration) if run.has_calibration else None
    if replay is None:
        raise MissingArtifactError(
            f"{path} has no floors, or no replay of the demo's conversation; make them: "
            f"keel demo --anew -o {path}"
        )
    page = path / "report.html"
    if not page.exists():
        page = report(RunFolder(path))
    recording = read_recording(path)
    if recording:
        recording = f"{recording} {_compared_weights(run)}"
    return Demo(run.persona_map, run.calibration, replay, page, recording)


def _compared_weights(run: Run) -> str:
    """Whether the model that is installed here is the recorded run's, in a sentence."""
    installed = unpacked_fingerprint(run.identity.model_id)
    if not installed:
        return "Its model was not opened here yet, so that its weights are not compared."
    if installed == run.identity.weights_hash:
        return "The weights installed here are those that it was computed on."
    return (
        "The weights installed here are others than it was computed on: keel chat will refuse it; "
        "compute a run with keel demo --anew."
    )


def _unpack(path: Path) -> None:
    """Put the recorded run where it is wanted; whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch,
        as_file(files("keel.pipeline") / _RECORDED) as packed,
        zipfile.ZipFile(packed) as archive,
    ):
        archive.extractall(Path(scratch) / "run")
        (Path(scratch) / "run").rename(path)


@dataclass(frozen=True)
class RecordedOn:
    """Where a run that ships with Keel was computed."""

    machine: str
    commit: str
    date: str


def record_demo(path: Path, made_on: RecordedOn, target: Path) -> None:
    """Pack a demo's run for shipping: without activations and report, with where it was made."""
    RunFolder(path).thin("none")
    (path / RECORDING).write_text(json.dumps(asdict(made_on)), encoding="utf-8")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path.rglob("*")):
            if file.is_file() and file.name not in (".lock", "report.html"):
                archive.write(file, file.relative_to(path))
