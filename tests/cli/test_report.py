"""keel report: the page, and where else it goes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keel import pipeline
from keel.report import TrackedRun, render_html, report_account, tracker
from keel.store import open_run
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
    ends = [tracked.numbers[f"axis/auc_untrained/{end}"] for end in ("low", "high")]
    assert ends == [0.49, 0.95]
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


def test_a_report_is_drawn_without_torch(run: Path):
    """To import it takes longer than to draw. A process of its own, since this one has it."""
    code = f"""
import sys
from keel.cli import run
for command in ("report", "info", "ls"):
    assert run([command, {str(run)!r}]) == 0
sys.exit("torch was loaded" if "torch" in sys.modules else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_report_drawn_from_torchs_tensors_is_the_same(run: Path):
    """But for the last of five digits: a sum over float32 numbers has an order."""
    drawn = [
        render_html(report_account(pipeline.report_inputs(open_run(run, framework))))
        for framework in ("np", "pt")
    ]
    numbers = [np.array(re.findall(r"-?\d+\.\d+", page), dtype=float) for page in drawn]
    np.testing.assert_allclose(*numbers, rtol=2e-3, atol=1e-4)
    words = [re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "", page) for page in drawn]
    assert words[0] == words[1]
