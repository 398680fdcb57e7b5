"""keel report: the page, and where else it goes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from keel.report import TrackedRun, tracker
from tests.cli.conftest import Keel


@pytest.fixture
def run(held_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(held_run, tmp_path / "held"))


def test_a_run_is_sent_with_its_numbers_and_curves(keel: Keel, run: Path):
    kept: list[TrackedRun] = []

    @tracker("kept-by-a-test")
    def keep(tracked: TrackedRun, project: str) -> str:
        kept.append(tracked)
        return f"a list, under {project}"

    outcome = keel("report", run, "--to", "kept-by-a-test", "--project", "axes", "--json")
    assert outcome.json["sent_to"] == "a list, under axes"
    (tracked,) = kept
    assert tracked.page == run / "report.html"
    assert tracked.parameters["model"]
    assert {"axis/auc", "axis/auc/low", "floors/price_nats"} <= tracked.numbers.keys()
    assert len(tracked.series["layers/auc"]) > 1


def test_an_unknown_tracker_is_refused_before_the_page_is_drawn(keel: Keel, run: Path):
    outcome = keel("report", run, "--to", "wandbb")
    assert outcome.code == 3
    assert "did you mean wandb?" in outcome.err
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    "options", [("--project", "axes"), ("--to", "mlflow", "--markdown")], ids=" ".join
)
def test_options_that_would_do_nothing_are_refused(keel: Keel, run: Path, options: tuple[str, ...]):
    outcome = keel("report", run, *options)
    assert outcome.code == 3
    assert "--to" in outcome.err
