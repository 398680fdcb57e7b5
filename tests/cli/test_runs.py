"""keel ls and keel info say what is there, what is missing, and how to make it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cli.commands import contents
from tests.cli.test_refusals import check_refused


def test_a_list_names_model_axis_floors_and_what_is_missing(keel, held, bare_run, place):
    shutil.copytree(bare_run, place / "bare")
    bare, calibrated = keel("ls", ".", "--json").json
    assert (bare["run"], calibrated["run"]) == ("bare", "held")
    assert bare["model"] == calibrated["model"]
    assert 0 <= bare["axis"]["layer"] < 4
    assert bare["floors"] is None
    assert bare["missing"] == ["floors"]
    assert calibrated["floors"]["chosen"].startswith("layers_")
    assert calibrated["missing"] == ["replays", "evaluations", "alarm"]
    assert calibrated["size_bytes"] == sum(map(len, contents(held).values()))
    shown = keel("ls", ".").out
    assert calibrated["floors"]["chosen"] in shown
    assert "missing: floors" in shown


def test_the_own_numbers_of_a_run_stand_for_its_scale(keel, bare):
    (run,) = keel("ls", bare, "--json").json
    assert run["scale"] == "4 roles × 4 questions, 6 tokens"


def test_a_list_goes_on_past_runs_that_cannot_be_read(keel, held, bare_run, place):
    shutil.copytree(bare_run, place / "begun")
    (place / "begun" / "manifest.json").unlink()
    shutil.copytree(bare_run, place / "broken")
    (place / "broken" / "manifest.json").write_text("{")
    begun, broken, whole = keel("ls", "--json").json
    assert "is not finished" in begun["problem"]
    assert "go on with: keel extract" in begun["problem"]
    assert "broken/manifest.json" in broken["problem"]
    assert "problem" not in whole


def test_runs_are_listed_from_the_folder_runs_where_there_is_one(keel, bare_run, place):
    shutil.copytree(bare_run, place / "runs" / "mine")
    (run,) = keel("ls", "--json").json
    assert run["run"] == "runs/mine"


def test_no_runs_is_an_empty_list_with_the_command_that_makes_one(keel, place):
    found = keel("ls")
    assert (found.code, found.out) == (0, "")
    assert "no runs in .; make one: keel demo" in found.err
    assert keel("ls", "--json").json == []
    check_refused(keel("ls", "nowhere"), "there is no folder nowhere")


def test_an_auc_is_said_with_its_interval_and_with_what_untrained_models_reach(keel, held):
    axis = keel("info", held, "--json").json["axis"]
    assert axis["auc_untrained"] == [0.49, 0.95]
    assert f"({axis['auc']['low']:.2f} to {axis['auc']['high']:.2f}), untrained 0.49 to 0.95" in (
        keel("info", held).out
    )
    (listed,) = keel("ls", held, "--json").json
    assert listed["axis"] == axis


def test_info_says_whose_run_it_is_and_what_next(keel, held):
    record = keel("info", held, "--json").json
    manifest = json.loads(Path(held, "manifest.json").read_text())
    assert record["identity"] == manifest["identity"]
    assert record["counts"]["rollouts"] == 36
    assert record["floors"]["settings"] == 4
    assert record["next"][0] == "keel drift held TALK.json --replay"
    shown = keel("info", held).out
    assert len(shown.splitlines()) <= 24
    for words in (manifest["identity"]["weights_hash"][:12], record["floors"]["chosen"]):
        assert words in shown


def test_info_and_list_fit_the_terminal_and_a_command_stays_whole(keel, held, monkeypatch):
    """A line of counts was 117 columns wide; parted, its words and their order are the same."""
    from rich.console import Console

    from keel.cli import console

    shown = {}
    for columns in (40, 60, 80, 400):
        monkeypatch.setattr(console, "stdout", Console(highlight=False, width=columns))
        info, listed = keel("info", held).out, keel("ls", held).out
        for row in info.splitlines():
            assert len(row) <= columns or " " not in row[13:] or row.startswith("next "), row
        for row in listed.splitlines()[1:]:  # the first is a path and a model, to be copied
            assert len(row) <= columns or " " not in row.strip(), row
        shown[columns] = info.split()
        assert "next         keel drift held TALK.json --replay\n" in info
    assert shown[40] == shown[60] == shown[80] == shown[400]


def test_info_on_a_run_without_floors_says_how_to_make_them(keel, bare):
    assert "next         keel calibrate bare\n" in keel("info", bare).out
