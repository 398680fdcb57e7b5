"""The notebooks run from top to bottom, in a kernel, as a reader would run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT

NOTEBOOKS = DOCS / "notebooks"


def _run(name: str, folder: Path, variables: Mapping[str, str]) -> None:
    """Execute a copy of the notebook in a folder; what a cell raises fails the test."""
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: the extra docs")
    pytest.importorskip("nbclient", reason="nbclient is not installed: the extra docs")
    shutil.copy(NOTEBOOKS / name, folder)
    ran = subprocess.run(
        [sys.executable, "-c", "from nbclient.cli import main; main()", name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


def test_the_axis_in_ten_minutes_runs_on_the_recorded_run(tmp_path: Path):
    _run("assistant_axis.ipynb", tmp_path, {})
    assert (tmp_path / "runs" / "demo" / "manifest.json").exists()


def test_does_my_fine_tune_drift_runs_on_a_model_and_a_run_of_ones_own(
    tmp_path: Path, model_folder: Path, finished_run: Path
):
    """With a tiny model; on the embedded one it takes minutes."""
    _run(
        "fine_tune.ipynb",
        tmp_path,
        {"KEEL_MODEL": str(model_folder), "KEEL_RUN": str(finished_run)},
    )


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_it_printed(path: Path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
