"""keel judge agree: judges of a run, of an evaluation, and people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def verdicts(path: Path, **labels: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"case_id": id, "label": label, "confidence": 0.9}) + "\n"
        for id, label in labels.items()
    ]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def person(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_two_judges_of_a_run_are_named(keel, bare):
    """Likelihood of another threshold than its own: at 0 it finds more that play, or as many."""
    from tests.cli.commands import CPU

    for threshold in (0.05, -9):
        assert keel("judge", bare, "--threshold", threshold, *CPU).code == 0
    found = keel("judge", "agree", bare, "likelihood-0.05", "likelihood--9", "--json").json
    assert found["n"] == 16  # 4 roles × 4 questions; the default's are unjudged
    assert "fully" in found["labels"]
    assert sum(map(sum, found["table"])) == 16


def test_a_beginning_is_enough_of_a_name_where_it_fits_one(keel, bare):
    assert keel("judge", bare, "--judge", "heuristic").code == 0
    found = keel("judge", "agree", bare, "heur", "heuristic", "--json").json
    assert found["agreement"]["value"] == 1


def test_a_judge_of_an_evaluation_is_held_against_a_person(keel, place):
    """Of a, b, c, d the person says other than the judge once: 3/4. Chance: labels x 3/4 and 1/2,
    y 1/4 and 1/2, so 0.5; κ = (0.75 − 0.5) / 0.5 = 0.5. Confident by 0.9, right by 0.75: 0.15."""
    verdicts(Path("jailbreak/verdicts/heuristic-1-harm.jsonl"), a="x", b="x", c="x", d="y", e="x")
    person(Path("me.csv"), "id,label,note\na,x,\nb,x,sure\nc,y,\nd,y,\nz,x,\n")
    found = keel("judge", "agree", "jailbreak", "heuristic", "me.csv", "--json").json
    assert (found["n"], found["only_a"], found["only_b"]) == (4, 1, 1)
    assert found["agreement"]["value"] == 0.75
    assert found["kappa"]["value"] == pytest.approx(0.5)
    assert found["calibration_error_a"] == pytest.approx(0.15)
    assert (found["a"], found["b"]) == ("heuristic-1-harm", "me")


def test_it_is_said_in_words_with_a_table(keel, place):
    a, b = (verdicts(Path(f"{n}.jsonl"), p="x", q="y", r="x") for n in "ab")
    found = keel("judge", "agree", a, b)
    assert found.code == 0
    assert "Both labelled 3" in found.out
    assert "Agreement: 100 % (" in found.out
    assert "Cohen's κ: 1.00 (" in found.out
    assert "rows" in found.out


def test_where_both_say_one_thing_only_it_says_that_there_is_no_kappa(keel, place):
    a, b = (verdicts(Path(f"{n}.jsonl"), p="x", q="x") for n in "ab")
    assert "one and the same label" in keel("judge", "agree", a, b).out
    assert keel("judge", "agree", a, b, "--json").json["kappa"] is None


REFUSED = {
    "one judge": (["a.jsonl"], "1 arguments are given"),
    "four": (["a.jsonl"] * 4, "4 arguments are given"),
    "a file that is not there": (["a.jsonl", "nowhere.csv"], "cannot read nowhere.csv"),
    "missing columns": (["a.jsonl", "bad.csv"], "lacks the column label"),
    "other answers": (["a.jsonl", "other.csv"], "0 cases were labelled by both"),
    "an unknown judge": (["run", "nobody", "a.jsonl"], "has no judge 'nobody'"),
    "a name that fits two": (["run", "j", "a.jsonl"], "fits 2 judges"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_line(keel, place, case):
    verdicts(Path("a.jsonl"), p="x", q="y")
    verdicts(Path("run/verdicts/j1.jsonl"), p="x")
    verdicts(Path("run/verdicts/j2.jsonl"), p="x")
    person(Path("bad.csv"), "id,verdict\np,x\n")
    person(Path("other.csv"), "id,label\nz,x\n")
    given, said = REFUSED[case]
    found = keel("judge", "agree", *given)
    assert (found.code, found.err.count("\n")) == (3, 1)
    assert said in found.err
