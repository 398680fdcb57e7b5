"""keel judge: other judges than likelihood, their prices, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keel.store import open_run
from tests.cli.commands import CPU, contents

ROLES = 16
"""Of the 36 rollouts of a small run, those in a role; 20 are the default's."""


def labels_of(run: Path, judge: str) -> dict[str, str]:
    return {id: said.label for id, said in open_run(run).judgements(judge).items()}


def test_the_heuristic_judges_a_run_without_its_model(keel, bare, monkeypatch):
    monkeypatch.setattr("keel.cli.console.open_model", lambda *_: pytest.fail("it was loaded"))
    found = keel("judge", bare, "--judge", "heuristic", "--json").json
    assert sum(found["labels"].values()) == 36
    assert found["labels"]["unjudged"] == 20
    assert len(labels_of(bare, found["judge"])) == 36


@pytest.mark.parametrize("spec", ["self", "channel"])
def test_the_runs_own_model_judges(keel, bare, spec):
    found = keel("judge", bare, "--judge", spec, "--limit", 3, *CPU, "--json").json
    assert sum(found["labels"].values()) == 3
    assert len(found["deciles"]) == 11


def test_another_model_judges(keel, bare, model):
    spec = f"local:{model}"
    found = keel("judge", bare, "--judge", spec, "--limit", 1, *CPU, "--json").json
    assert sum(found["labels"].values()) == 1


def test_a_limit_takes_the_same_answers_each_time_and_a_larger_one_takes_more(keel, bare):
    asked = ("judge", bare, "--judge", "heuristic", "--json", "--limit")
    name = keel(*asked, 4).json["judge"]
    four = labels_of(bare, name)
    assert len(four) == 4
    assert "default" not in {id.split("/")[0] for id in four}
    keel(*asked, 4)
    assert labels_of(bare, name) == four
    keel(*asked, 9)
    assert four.items() < labels_of(bare, name).items()
    assert len(labels_of(bare, name)) == 9


def test_rollouts_may_be_named_and_options_may_stand_first(keel, bare):
    short = keel("judge", "--judge", "heuristic", bare, "--json")
    long = keel("judge", "rollouts", bare, "--judge", "heuristic", "--json")
    assert short.json == long.json


def test_a_dry_run_counts_and_leaves_the_run_as_it_is(keel, bare, monkeypatch):
    monkeypatch.setattr("keel.cli.console.open_model", lambda *_: pytest.fail("it was loaded"))
    before = contents(bare)
    found = keel("judge", bare, "--judge", "self", "--dry-run", "--json").json
    assert found == {"judge": "self", "answers": ROLES}
    assert contents(bare) == before


def test_a_dry_run_prices_an_endpoint_without_asking_it(keel, bare, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    prices = ("--usd-in", 1, "--usd-out", 2)
    found = keel("judge", bare, "--judge", "openai:m", *prices, "--dry-run", "--json").json
    assert found["requests"] == ROLES
    assert found["tokens_sent"] > ROLES * 200
    assert 0 < found["cost_usd"] < found["cost_usd_at_most"]


def test_rubrics_of_ones_own_make_another_judge(keel, bare, place):
    from dataclasses import asdict

    from keel.prompts import read_rubrics

    role = {**asdict(read_rubrics()["role"]), "version": 7}
    Path("mine.json").write_text(
        json.dumps({"schema_version": 1, "rubrics": [role]}), encoding="utf-8"
    )
    asked = ("judge", bare, "--judge", "heuristic", "--json")
    assert keel(*asked).json["judge"] != keel(*asked, "--rubrics", "mine.json").json["judge"]


REFUSED = {
    "unknown judge": (("--judge", "oracle"), "judge is 'oracle', expected heuristic, local:MODEL"),
    "threshold of another judge": (
        ("--judge", "heuristic", "--threshold", "0.1"),
        "--threshold is for --judge likelihood",
    ),
    "address of a judge that has none": (
        ("--judge", "heuristic", "--judge-url", "http://127.0.0.1:1/v1"),
        "has no address",
    ),
    "address of likelihood": (("--judge-url", "http://127.0.0.1:1/v1"), "takes no --judge-url"),
    "budget of likelihood": (("--max-requests", "3"), "takes no budget and no pace"),
    "costs without prices": (
        ("--judge", "openai:m", "--max-usd", "1"),
        "give usd_per_million_in and usd_per_million_out",
    ),
    "rubrics that are not there": (
        ("--judge", "heuristic", "--rubrics", "nowhere.json"),
        "nowhere.json",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(keel, bare, case):
    options, said = REFUSED[case]
    before = contents(bare)
    found = keel("judge", bare, *options, *CPU)
    assert found.code == 3
    assert said in found.err.replace("\n", " ")
    assert found.err.count("\n") == 1
    assert contents(bare) == before


@pytest.mark.parametrize("command", ["rollouts", "agree", "label"])
def test_help_of_each_part_shows_an_example_and_json(keel, command):
    found = keel("judge", command, "--help")
    assert (found.code, found.err) == (0, "")
    assert "--json" in found.out
    assert "keel judge" in found.out.partition("Examples:")[2]


def test_the_help_names_the_parts(keel):
    found = keel("judge", "--help")
    assert all(word in found.out for word in ("rollouts", "agree", "label", "Examples:"))
