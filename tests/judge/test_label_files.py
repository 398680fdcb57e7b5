"""Labels out of files of judges and of people."""

from __future__ import annotations

from pathlib import Path

import pytest

from keel.errors import MissingArtifactError, UsageError
from keel.judge import LabelFile, comparable_labels, read_labels


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_verdicts_without_a_label_are_left_out_and_counted(tmp_path: Path):
    lines = (
        '{"case_id": "a", "label": "refusal", "confidence": 0.5, "status": "ok"}\n'
        '{"case_id": "b", "label": "", "status": "unparsed"}\n'
        '{"case_id": "c", "label": "", "status": "failed"}\n'
    )
    found = read_labels(write(tmp_path / "x.jsonl", lines))
    assert found == LabelFile("x", {"a": "refusal"}, {"a": 0.5}, 2)


def test_judgements_of_rollouts_are_read_too_but_for_the_default(tmp_path: Path):
    lines = (
        '{"rollout_id": "pirate/p0/q0", "label": "fully", "score": 0.2, "status": "ok"}\n'
        '{"rollout_id": "default/p0/q0", "label": "unjudged", "score": null, "status": "ok"}\n'
    )
    assert read_labels(write(tmp_path / "x.jsonl", lines)).labels == {"pirate/p0/q0": "fully"}


def test_of_one_case_the_last_verdict_holds(tmp_path: Path):
    lines = '{"case_id": "a", "label": "x"}\n{"case_id": "a", "label": "y"}\n'
    assert read_labels(write(tmp_path / "x.jsonl", lines)).labels == {"a": "y"}


def test_a_line_torn_by_a_kill_is_not_counted(tmp_path: Path):
    lines = '{"case_id": "a", "label": "x"}\n{"case_id": "b", "la'
    assert read_labels(write(tmp_path / "x.jsonl", lines)).labels == {"a": "x"}


def test_a_csv_of_a_persons_may_have_its_columns_in_any_order_and_more(tmp_path: Path):
    text = "note,label,id,when\nodd,refusal,a,now\n,,b,\n"
    assert read_labels(write(tmp_path / "me.csv", text)) == LabelFile("me", {"a": "refusal"}, {}, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,verdict\na,x\n", "lacks the column label, it has id, verdict"),
        ("", "lacks the column id and label, it has none"),
        ("id,label\na,x\na,y\n", "line 3: id 'a' is there twice"),
    ],
)
def test_a_csv_that_cannot_be_taken_is_refused_in_one_line(tmp_path: Path, text: str, said: str):
    with pytest.raises(UsageError, match=said):
        read_labels(write(tmp_path / "me.csv", text))


@pytest.mark.parametrize("line", ['{"case_id": "a"}', '{"label": "x"}', "[1]", "hello"])
def test_a_file_of_something_else_is_refused_with_its_line(tmp_path: Path, line: str):
    with pytest.raises(UsageError, match=r"x\.jsonl, line 1"):
        read_labels(write(tmp_path / "x.jsonl", line + "\n"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(MissingArtifactError, match=r"nowhere\.csv"):
        read_labels(tmp_path / "nowhere.csv")


def test_a_persons_role_scores_are_held_against_a_judges_words():
    person = LabelFile("me", {"a": "0", "b": "1", "c": "2", "d": "3"}, {})
    judge = LabelFile("it", {"a": "none", "d": "fully"}, {})
    coarse = {"a": "none", "b": "none", "c": "somewhat", "d": "fully"}
    assert comparable_labels(person, judge) == (coarse, judge.labels)
    assert comparable_labels(judge, person) == (judge.labels, coarse)


def test_two_people_with_scores_are_compared_by_their_scores():
    one, two = LabelFile("a", {"x": "0"}, {}), LabelFile("b", {"x": "1"}, {})
    assert comparable_labels(one, two) == ({"x": "0"}, {"x": "1"})
