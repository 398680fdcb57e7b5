"""Runs made by commit a7ca523, of 2026-11-26, open, go on and report as before.

The archive was made on that commit with the helpers of these tests: a tiny Llama, a run broken off
after two of six batches (`begun`), one with floors, drift, a replay, a sweep, two whole evaluations
and two broken off in their second arm (`finished`), and one with traits (`both`). Another CPU may
sample other tokens, so what was kept must stay to the byte, and what is new must only be there.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

import keel
from keel import pipeline
from keel.evaluate import parse_arms
from keel.evaluate.capability import (
    CapabilitySettings,
    open_task,
    task_answerer,
    task_evaluation,
)
from keel.store import RunFolder
from tests.pipeline.evaluation import evaluate_small
from tests.pipeline.small import INPUTS, ROLLOUTS, SETTINGS, files, open_small
from tests.pipeline.test_sweep import SETTINGS as SWEEP
from tests.pipeline.test_sweep import inputs
from tests.pipeline.test_traits import BOTH, SETTINGS_BOTH, Sided

ARCHIVE = Path(__file__).parent / "runs_of_a7ca523.zip"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The archive unpacked: folders `model`, `begun`, `finished`, `both` and `data`."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def answers(run: Path, evaluation: str) -> dict[str, bytes]:
    """The files of an evaluation's answers."""
    kept = files(run / "evaluations" / evaluation / "answers")
    return {name: content for name, content in kept.items() if "arm.json" not in name}


def numbers(value: Any) -> Any:
    """The value with its numbers to nine digits: another CPU may round the last otherwise."""
    if isinstance(value, dict):
        return {key: numbers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [numbers(part) for part in value]
    return pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value


def test_all_that_an_old_run_holds_can_be_read(old):
    run = keel.open_run(old / "finished")
    assert run.axis.vector.shape == (4, 32)
    assert run.floors.name == run.calibration.chosen
    assert {setting.percentile for setting in run.calibration.settings} == {50.0, 75.0}
    assert len(list(run.rollouts())) == ROLLOUTS
    assert [reading.conversation_id for reading in run.drift_readings()] == ["talk"]
    assert len(run.replays()) == 1
    assert {"gsm8k", "odd"} <= run.evaluations().keys()
    assert run.has_sweep
    assert run.sweep.swept
    assert len(keel.open_run(old / "both").trait_map.vectors) > 0


def test_an_old_run_is_reported_in_full(old):
    for name in ("finished", "both"):
        assert pipeline.report(RunFolder(old / name)).stat().st_size > 50_000


def test_a_half_done_old_run_goes_on_from_where_it_stood(old):
    folder, kept = RunFolder(old / "begun"), files(old / "begun")
    assert len(folder.committed()) == 2
    pipeline.extract(open_small(old / "model"), folder, SETTINGS, inputs=INPUTS)
    assert {name: files(folder.path)[name] for name in kept} == kept
    assert len(list(folder.read().rollouts())) == ROLLOUTS


def test_a_finished_old_run_is_not_answered_or_mapped_again(old):
    engine: Any = open_small(old / "model")
    engine.generate = lambda *_, **__: pytest.fail("it answered again")
    before = files(old / "finished")
    pipeline.extract(engine, RunFolder(old / "finished"), SETTINGS, inputs=INPUTS)
    pipeline.extract(engine, RunFolder(old / "both"), SETTINGS_BOTH, inputs=BOTH, judge=Sided())
    after = files(old / "finished")
    assert {name for name in before if after.get(name) != before[name]} <= {"manifest.json"}


def test_a_whole_old_evaluation_is_summed_up_as_it_was(old):
    path = old / "finished" / "evaluations" / "odd" / "result.json"
    kept, before = answers(old / "finished", "odd"), json.loads(path.read_text())
    evaluate_small(old / "model", old / "finished")
    assert answers(old / "finished", "odd") == kept
    # Rates are as they were; intervals and p-values are those of today's statistics.
    after = json.loads(path.read_text())["value"]["arms"]
    rates = [(arm["arm"], arm["n"], arm["rate"]["value"], arm["labels"]) for arm in after]
    earlier = numbers(before)["value"]["arms"]
    assert rates == [(a["arm"], a["n"], a["rate"]["value"], a["labels"]) for a in earlier]


def test_a_half_done_old_evaluation_goes_on_from_where_it_stood(old):
    kept = answers(old / "finished", "half")
    result = evaluate_small(old / "model", old / "finished", "none,capped", name="half")
    now = answers(old / "finished", "half")
    assert {name: now[name] for name in kept} == kept
    assert len(now) > len(kept)
    assert [arm.n for arm in result.arms] == [10, 10]


def test_a_half_done_old_task_goes_on_from_where_it_stood(old):
    kept = answers(old / "finished", "half-task")
    engine, folder = open_small(old / "model"), RunFolder(old / "finished")
    arms = pipeline.arms_of(engine, folder.read(), parse_arms("none,capped"))
    settings = CapabilitySettings(max_new_tokens=8, batch_size=3)
    task = open_task("gsm8k", settings, data=old / "data" / "sums.jsonl")
    evaluation = task_evaluation(task, task_answerer(task, engine), arms, name="half-task")
    pipeline.evaluate(folder, evaluation)
    now = answers(old / "finished", "half-task")
    assert {name: now[name] for name in kept} == kept
    assert len(now) > len(kept)


def test_an_old_sweep_is_not_measured_again(old):
    """Of three answers today's screening keeps other settings; what was answered stays answered."""
    engine: Any = open_small(old / "model")
    kept = files(old / "finished" / "evaluations")
    again = pipeline.sweep(engine, RunFolder(old / "finished"), inputs(), SWEEP)
    now = files(old / "finished" / "evaluations")
    assert again.swept
    assert {name: now[name] for name in kept if "/answers/" in name} == {
        name: content for name, content in kept.items() if "/answers/" in name
    }
