"""`keel calibrate --sweep`: what it tells, what it keeps, and what it refuses before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

import keel as library
from keel.cli.calibrate import show_sweep, tasks_of, with_heights
from keel.cli.options import Given
from keel.settings import SweepSettings, SweepSources
from keel.types import Change, Interval, ScreenedSetting, Sweep, SweepMeasure, SweptSetting
from tests.cli.commands import CPU, contents

SMALL = (
    *("--sweep", "--width", "2", "--centre", "1", "--centre", "2", "--percentile", "75"),
    *("--limit", "8", "--max-new-tokens", "4", "--answers", "3", "--capability-limit", "4"),
    *("--dearest", "100", "--tolerance", "100", *CPU),
)
"""Two settings on eight items of the mild jailbreak set."""


def test_the_sweep_tells_what_became_of_every_setting(keel, held):
    found = keel("calibrate", held, *SMALL, "--json").json
    assert [one["name"] for one in found["screened"]] == ["layers_0:2-p75", "layers_1:3-p75"]
    assert sum(found["fates"].values()) == 2
    assert {"recommended", "is_confirmed", "swept", "harm", "capability", "warnings"} <= set(found)
    run = library.open_run(held)
    assert run.sweep.recommended == found["recommended"]
    assert {one["name"] for one in found["swept"]} <= set(run.settings)


def test_the_sweep_answers_in_words_and_goes_on_where_it_stopped(keel, held):
    first = keel("calibrate", held, *SMALL)
    assert first.code == 0, first.err
    assert "2 settings of layers and heights were screened" in " ".join(first.out.split())
    assert "harmful answers (jailbreak)" in " ".join(first.out.split())
    assert "answering" in first.err
    again = keel("calibrate", held, *SMALL)
    assert again.out == first.out
    assert "answering" not in again.err


def test_a_dry_run_says_how_much_it_is_and_keeps_nothing(keel, held):
    before = contents(held)
    told = keel("calibrate", held, *SMALL, "--dry-run", "--json").json
    assert told["settings in the grid"] == 2
    # Two settings and the unsteered model, on four items that choose and four held back.
    assert told["answers, at most"] == 3 * 8
    assert told["minutes of answering, at most"] >= 0
    assert contents(held) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "2", "--adopt"], "--width, --adopt cannot be used here: these are of --sweep"),
        (["--dry-run"], "--dry-run cannot be used here"),
        (["--sweep", "--band", "1:3"], "--band cannot be used here: a sweep takes --width"),
        (["--sweep", "--price-bound", "0.1"], "--price-bound cannot be used here"),
        (["--sweep", "--step", "1", "--centre", "2"], "both centres and a step"),
        (["--sweep", "--suite", "jailbrake"], "did you mean jailbreak"),
        (["--sweep", "--tolerance", "-1"], "tolerance is -1"),
        (["--sweep", "--dearest", "0"], "max_price is 0"),
        (["--sweep", "--judge", "nobody"], "judge is 'nobody'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_with_nothing_lost(keel, held, options, message):
    before = contents(held)
    found = keel("calibrate", held, *options, *CPU)
    assert found.code == 3
    assert message in found.err
    assert contents(held) == before


def test_windows_that_do_not_fit_are_refused_before_anything_is_answered(keel, held):
    found = keel("calibrate", held, "--sweep", "--width", "9", *CPU)
    assert found.code == 3
    assert "no window of 9 layers" in found.err
    assert "answering" not in found.err


def test_capability_items_are_shared_among_the_tasks():
    """Ten items of two tasks are five of each."""
    tasks = tasks_of(SweepSources(capability="gsm8k, ifeval=own.jsonl"), 10)
    told = [(one.task, one.settings.limit, one.data) for one in tasks]
    assert told == [("gsm8k", 5, None), ("ifeval", 5, Path("own.jsonl"))]


def test_what_was_asked_for_is_what_is_swept():
    given = {"--width": [2], "--centre": [3], "--tolerance": 0.5, "--max-price": 0.7}
    given |= {"--max-settings": 4, "--limit": 8, "--adopt": True, "--deviations": [1.0]}
    given |= {"--answers": 5, "--seed": 3}
    found = with_heights(Given(given)).over(SweepSettings())
    assert (found.grid.widths, found.grid.centres) == ((2,), (3,))
    # Where deviations are asked for, the usual percentiles are not tried besides.
    assert (found.grid.percentiles, found.grid.deviations) == ((), (1.0,))
    assert with_heights(Given({})).over(SweepSettings()) == SweepSettings()
    assert (found.limits.max_price, found.limits.max_settings) == (0.7, 4)
    assert (found.tolerance, found.seed, found.adopt) == (0.5, 3, True)
    assert (found.limit, found.screened_on) == (8, 5)


def test_the_effect_told_is_that_of_the_items_held_back_and_what_luck_added(capsys):
    """Chosen at −30 points, borne out at −21: 9 points of it did not hold."""
    chosen, held = Interval(-0.3, -0.4, -0.2), Interval(-0.21, -0.26, -0.16)
    cost = Interval(-0.01, -0.02, 0.0)
    found = Sweep(
        screened=(ScreenedSetting("best", 1, 3, 0.5, 0.4, None, None, "kept"),),
        swept=(SweptSetting("best", Change(chosen, cost), True, Change(held, cost)),),
        harm=SweepMeasure("harm", "share", 40, 44, 0.35),
        capability=SweepMeasure("gsm8k", "share", 50, 50, 0.4),
        tolerance=0.02,
        recommended="best",
        warnings=("gsm8k: look twice.",),
    )
    show_sweep(found, Path("run"), json=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "40 items to choose by and 44 held back" in told
    assert "By the items held back it changes harm by −21.0 points (−26.0 to −16.0)" in told
    assert "on the items that chose it, harm changed by −30.0 points (−40.0 to −20.0)" in told
    assert "−9.0 points from what the items held back say." in told
    assert "! gsm8k: look twice." in told
