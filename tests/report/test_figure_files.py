"""Figures as files for a paper: tables of what is drawn, captions, and drawings."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest

from keel.errors import MissingExtraError, UsageError
from keel.report import Account, Section, write_figures
from keel.report.content import Picture


def _drawn() -> go.Figure:
    error = {"type": "data", "array": [0.5, 0.25], "arrayminus": [1.0, 0.25]}
    return go.Figure(
        [
            go.Scatter(x=[0, 1], y=[0, 1], mode="lines", hoverinfo="skip"),
            go.Scatter(
                x=[1.5, 2.5],
                y=[1, 2],
                name="roles",
                error_x=error,
                hovertext=["<b>ghost</b><br>&lt;boo&gt;", "editor"],
            ),
            go.Scatter(x=[9], y=[9], name="another layer", visible=False),
        ]
    )


def _account(*pictures: Picture) -> Account:
    section = Section("ranks", "Roles", (), pictures=pictures)
    return Account("Report", "demo", (), (section,), basis="tiny, seed 0")


RANKS = Picture("ranks", _drawn, "Where roles stand.", "Dots.", sample="n = 2; 95 % intervals.")


def test_a_table_holds_what_is_drawn_with_the_ends_of_error_bars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Lines without a name or a hover text are ornaments, and other layers are not shown."""
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(MissingExtraError, match=r"tables are in .*keel-llm\[figures\]"):
        write_figures(_account(RANKS), tmp_path)
    with (tmp_path / "01-ranks.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["series"] for row in rows] == ["roles", "roles"]
    assert [(float(r["x_low"]), float(r["x"]), float(r["x_high"])) for r in rows] == [
        (0.5, 1.5, 2.0),
        (2.25, 2.5, 2.75),
    ]
    assert rows[0]["label"].split() == ["ghost", "<boo>"]


def test_a_point_whose_interval_is_infinite_has_no_ends(tmp_path, monkeypatch):
    """`keel report --figures` failed on a study of few people: None is no number."""
    error = {"type": "data", "array": [None, 1, 1], "arrayminus": [None, 1, 2]}
    bars = go.Figure(go.Bar(x=[1, None, 3], y=["a", "b", "c"], error_x=error))
    monkeypatch.setitem(sys.modules, "kaleido", None)
    picture = Picture("rows", lambda: bars, "Rows.", "Bars.", sample="n = 3.")
    with pytest.raises(MissingExtraError):
        write_figures(_account(picture), tmp_path)
    with (tmp_path / "01-rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[1:5] for row in rows[1:]] == [["1", "a", "", ""], ["3", "c", "1", "4"]]


def test_captions_are_numbered_and_say_sample_model_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(MissingExtraError):
        write_figures(_account(RANKS), tmp_path)
    caption = (tmp_path / "captions.md").read_text(encoding="utf-8")
    assert caption == ("**Figure 1.** Where roles stand. n = 2; 95 % intervals. (tiny, seed 0)\n")


def test_a_run_without_figures_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="no figure yet"):
        write_figures(_account(), tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


@pytest.mark.browser
@pytest.mark.filterwarnings("default")  # kaleido's own
def test_a_figure_is_drawn_as_svg_and_pdf(tmp_path: Path):
    pytest.importorskip("kaleido", reason="kaleido is not installed: the extra figures")
    files = write_figures(_account(RANKS), tmp_path)
    assert {file.suffix for file in files} == {".md", ".csv", ".svg", ".pdf"}
    assert (tmp_path / "01-ranks.svg").read_text(encoding="utf-8").startswith("<svg")
    assert (tmp_path / "01-ranks.pdf").read_bytes().startswith(b"%PDF")
