"""Trackers get a run's numbers, its facts and the page; the real ones, where installed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from keel.errors import MissingExtraError, TrackerError, UsageError
from keel.report import TrackedRun, send_to_tracker, tracker


@pytest.fixture
def sent(tmp_path: Path) -> TrackedRun:
    page = tmp_path / "report.html"
    page.write_text("<p>All of it.</p>", encoding="utf-8")
    return TrackedRun(
        name="demo",
        parameters={"model": "tiny", "chat template: kind": "chat"},
        numbers={"axis/auc": 0.75, "jailbreak/steered:+0.5/rate": 0.25, "nothing": math.nan},
        series={"replay/talk/capped": [0.5, math.nan, 1.5]},
        page=page,
    )


def test_a_tracker_of_ones_own_gets_the_finite_numbers(sent: TrackedRun):
    @tracker("notebook-of-mine")
    def keep(run: TrackedRun, project: str) -> str:
        return f"{project}: {sorted(run.numbers)}"

    told = send_to_tracker("notebook-of-mine", sent, "axes")
    assert told == "axes: ['axis/auc', 'jailbreak/steered:+0.5/rate']"


def test_an_unknown_tracker_is_refused_with_those_that_there_are(sent: TrackedRun):
    with pytest.raises(UsageError, match="tracker is 'mlflo', expected one of mlflow, wandb"):
        send_to_tracker("mlflo", sent, "keel")


def test_what_a_tracker_says_is_told_with_the_page_that_is_kept(sent: TrackedRun):
    @tracker("broken")
    def refuse(run: TrackedRun, project: str) -> str:
        raise OSError("no route to host")

    with pytest.raises(TrackerError, match=r"OSError: no route to host; .*report.html is written"):
        send_to_tracker("broken", sent, "keel")


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused_with_its_extra(
    package: str, sent: TrackedRun, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'keel-llm\[{package}\]'"):
        send_to_tracker(package, sent, "keel")


@pytest.mark.filterwarnings("default")  # the tracker's own
def test_mlflow_holds_numbers_curves_facts_and_the_page(
    sent: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In a database of its own, as it keeps runs without a server. `:` and `+` are not for it."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: the extra mlflow")
    pytest.importorskip("sqlalchemy", reason="mlflow-skinny keeps no runs without a server")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert "experiment axes" in send_to_tracker("mlflow", sent, "axes")
    (run,) = mlflow.MlflowClient().search_runs(
        [mlflow.get_experiment_by_name("axes").experiment_id]
    )
    assert run.info.run_name == "demo"
    assert run.data.params == {"model": "tiny", "chat template_ kind": "chat"}
    assert run.data.metrics["axis/auc"] == 0.75
    assert run.data.metrics["jailbreak/steered__0.5/rate"] == 0.25
    curve = mlflow.MlflowClient().get_metric_history(run.info.run_id, "replay/talk/capped")
    assert [(point.step, point.value) for point in curve] == [(0, 0.5), (2, 1.5)]
    artefacts = mlflow.MlflowClient().list_artifacts(run.info.run_id)
    assert [artefact.path for artefact in artefacts] == ["report.html"]


@pytest.mark.filterwarnings("default")  # the tracker's own
def test_wandb_holds_numbers_curves_facts_and_the_page(
    sent: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Offline, as it keeps runs until `wandb sync`."""
    pytest.importorskip("wandb", reason="wandb is not installed: the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    files = Path(send_to_tracker("wandb", sent, "axes"))
    assert list(files.glob("media/html/report_*.html"))
    tables = list(files.glob("media/table/**/*.json"))
    assert [json.loads(table.read_text())["data"][0] for table in tables] == [[0, 0.5]]
    (record,) = files.parent.glob("*.wandb")
    assert b"jailbreak/steered:+0.5/rate" in record.read_bytes()
