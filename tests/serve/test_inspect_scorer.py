"""The scorer of drift, on samples answered by a run with an alarm."""

import shutil

import pytest
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.solver import generate

from keel.alarm import Alarm
from keel.serve import drift_alarm
from keel.store import RunFolder
from tests.serve.conftest import QUESTIONS


@pytest.fixture
def watched_run(held_run, tmp_path):
    """A run whose alarm expects levels far above what a tiny model says: all samples alarm."""
    path = shutil.copytree(held_run, tmp_path / "watched")
    run = RunFolder(path).read()
    alarm = Alarm(
        layer=0,
        direction=run.axis.direction[0].float(),
        zero=0.0,
        gap=1e-3,
        expected=(1e5,),
        between=1.0,
        within=1.0,
        token=0.0,
        identity=run.identity,
    )
    RunFolder(path).save_alarm(alarm)
    return path


def test_the_scorer_folds_a_samples_answers_into_evidence(watched_run, evaluated):
    samples = [Sample(question) for question in QUESTIONS]
    task = Task(dataset=samples, solver=generate(), scorer=drift_alarm(str(watched_run)))
    log = evaluated(task, watched_run)
    assert log.status == "success", log.error and log.error.message
    metrics = log.results.scores[0].metrics
    states = [sample.scores["drift_alarm"].metadata["state"] for sample in log.samples]
    share = states.count("alarm") / len(states)
    assert share > 0
    assert metrics["alarm_rate"].value == pytest.approx(share)
    error = (share * (1 - share) / len(states)) ** 0.5
    assert metrics["alarm_rate_stderr"].value == pytest.approx(error)
