"""Which files of Keel an evaluation enters: `python -m benchmarks.entered`.

Twelve items under three arms on a tiny random model; what is imported, opened or calibrated before
does not count.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import FrameType

import keel
from keel import pipeline
from keel.calibrate import CalibrateSettings
from keel.engines import open_engine
from keel.evaluate import EngineAnswerer, Evaluation, first_items, parse_arms
from keel.judge import HeuristicGrader
from keel.pipeline import ExtractSettings, open_suite
from keel.prompts import read_rubrics
from keel.settings import MapSettings, PromptSettings
from keel.store import RunFolder
from keel.testing import save_tiny_model
from keel.types import Sampling

ARMS = "none,capped,steered:-0.5"
ITEMS = 12


def files_entered(folder: Path) -> list[str]:
    """The files whose functions are called, in alphabetical order."""
    engine = open_engine(
        str(save_tiny_model(folder / "tiny", "llama")), device="cpu", dtype="float32"
    )
    run = RunFolder(folder / "run")
    short = Sampling(max_new_tokens=6)
    prompts = PromptSettings(roles=4, questions=4)
    mapping = MapSettings(min_count=3)
    pipeline.extract(engine, run, ExtractSettings(prompts, short, mapping))
    pipeline.calibrate(engine, run, CalibrateSettings())
    arms = pipeline.arms_of(engine, run.read(), parse_arms(ARMS))
    rubric = read_rubrics()["identity"]
    entered = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            entered.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        suite = replace(first_items(open_suite("susceptibility"), ITEMS), sampling=short)
        answerer = EngineAnswerer(engine, run.read().axis)
        asked = Evaluation(suite, arms, answerer, HeuristicGrader(), rubric)
        pipeline.evaluate(run, asked)
    finally:
        sys.setprofile(None)
    source = str(Path(keel.__file__).parent)
    return sorted(name.removeprefix(source)[1:] for name in entered if name.startswith(source))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        entered = files_entered(Path(folder))
    print(*entered, f"{len(entered)} files", sep="\n")
