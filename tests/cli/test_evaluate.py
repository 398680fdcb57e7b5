"""`keel evaluate`: a table, JSON, a price, and one clear line for what cannot be done."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keel.cli.results import print_results
from keel.report.textplot import draw_interval
from keel.store import open_run
from keel.types import Interval
from tests.cli.commands import CPU, contents

SHORT = ("--limit", "8", "--max-new-tokens", "6", "--judge", "heuristic", *CPU)


@pytest.fixture(scope="module")
def evaluated(held_run, tmp_path_factory):
    """A run with one evaluation, and what the command said. To be read only."""
    import shutil

    path = tmp_path_factory.mktemp("runs") / "evaluated"
    shutil.copytree(held_run, path)
    from keel.cli import run

    arms = ("--arms", "none,capped,random")
    assert run(["evaluate", str(path), "jailbreak", *arms, *SHORT]) == 0
    return path


def test_json_has_an_entry_per_arm(evaluated, keel):
    told = keel(
        "evaluate", evaluated, "jailbreak", "--arms", "none,capped,random", *SHORT, "--json"
    )
    assert [arm["arm"] for arm in told.json["arms"]] == ["none", "capped", "random"]
    for arm in told.json["arms"]:
        wanted = {
            "rate", "ci_low", "ci_high", "n", "firing_rate", "nonsensical_rate", "p_value"
        }  # fmt: skip
        assert wanted <= arm.keys()
        assert arm["n"] == 8
        assert 0 <= arm["ci_low"] <= arm["rate"] <= arm["ci_high"] <= 1
    assert told.json["arms"][0]["p_value"] is None
    assert told.json["arms"][1]["firing_rate"] is not None
    assert told.json["baseline"]["n"] == 8


def test_the_table_shows_every_arm_and_says_what_it_means(evaluated, keel):
    told = keel("evaluate", evaluated, "jailbreak", "--arms", "none,capped,random", *SHORT)
    assert told.code == 0
    assert "Evaluation: jailbreak" in told.out
    assert "Measured: harmful answers, judged by heuristic" in " ".join(told.out.split())
    assert "●" in told.out
    assert "Unsteered" in told.out
    assert all(len(line) <= 80 for line in told.out.splitlines())


def test_no_column_is_cut_where_names_are_long(evaluated, capsys):
    """On 80 columns the counts once read `3…`: the bar gives way instead."""
    result = open_run(evaluated).evaluations()["jailbreak"]
    arms = tuple(replace(arm, arm=f"{arm.arm}:layers_21:26-p75", n=1000) for arm in result.arms)
    print_results(evaluations={"jailbreak": replace(result, arms=arms)})
    told = capsys.readouterr().out
    assert "…" not in told
    assert told.count(" 1000 ") == len(arms)


def test_finished_evaluations_are_listed(evaluated, keel):
    (listed,) = keel("evaluate", evaluated, "--list", "--json").json
    assert (listed["name"], listed["is_finished"]) == ("jailbreak", True)
    assert listed["arms"] == ["none", "capped", "random"]
    assert "finished, judged by" in keel("evaluate", evaluated, "--list").out


def test_the_folder_one_is_in_is_a_run_and_no_suite(evaluated, keel, monkeypatch):
    """With no suite, the run was taken for one, and the arguments for swapped."""
    monkeypatch.chdir(evaluated)
    assert "finished, judged by" in keel("evaluate", ".", "--list").out


def test_a_dry_run_prices_and_keeps_nothing(held, keel):
    before = contents(held)
    told = keel(
        "evaluate", held, "jailbreak", "--arms", "none,capped", *SHORT, "--dry-run", "--json"
    )
    assert told.json["answers"] == 8 * 3  # 8 attacks twice, 8 requests alone
    assert told.json["new tokens, at most"] == 24 * 6
    assert told.json["judge requests, at most"] == 24
    assert contents(held) == before


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("jailbrake",), "suite is 'jailbrake'"),
        ((), "no suite is named"),
        (("jailbreak", "--arms", "none,caped"), "unknown arm 'caped'"),
        (("susceptibility", "--data", "x.csv"), "--data is for jailbreak"),
        (("jailbreak", "--data", "absent.csv"), "absent.csv"),
        (("jailbreak", "--task", "gsm8k"), "--task is for the suite capability"),
        (("jailbreak", "--judge", "oracle"), "judge is 'oracle'"),
        (("jailbreak", "--name", "a/b"), "cannot be called 'a/b'"),
        (("jailbreak", "--name", "sweep-x"), "a sweep's own"),
        (("jailbreak", "--arms", "none", "--endpoint", "nowhere"), "expected one such as http"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_makes_no_sense_is_one_line(held, keel, asked, told):
    before = contents(held)
    outcome = keel("evaluate", held, *asked, *CPU, *(("--limit", "2") if asked else ()))
    assert outcome.code == 3
    assert told in outcome.err.splitlines()[-1]
    assert len(outcome.err.strip().splitlines()[-1]) < 600
    assert contents(held) == before


def test_a_run_without_floors_says_how_to_make_them(bare, keel):
    outcome = keel("evaluate", bare, "jailbreak", "--arms", "none,capped", *SHORT)
    assert outcome.code == 3
    assert "keel calibrate" in outcome.err


def test_a_file_without_its_columns_is_named(held, keel, place):
    (place / "mine.csv").write_text("prompt,question\na,b\n")
    outcome = keel("evaluate", held, "jailbreak", "--data", "mine.csv", *CPU)
    assert outcome.code == 3
    assert "mine.csv" in outcome.err


@pytest.mark.parametrize(
    ("found", "drawn"),
    [
        (Interval(0.5, 0.25, 0.75), "··├─●─┤··"),
        (Interval(0.0, 0.0, 0.2), "●─┤······"),
        (Interval(1.0, 1.0, 1.0), "········●"),
    ],
)
def test_an_interval_is_a_line_with_its_value_on_it(found, drawn):
    assert draw_interval(found, 0, 1, width=9) == drawn
