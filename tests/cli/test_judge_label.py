"""keel judge label: a person at the terminal, whose lines come from stdin."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from keel.judge import read_labels


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch):
    """What the person types, line by line."""

    def say(*lines: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))

    return say


def test_a_run_is_labelled_by_its_roles_and_compared_with_a_judge(keel, bare, says):
    says(*["1"] * 16)
    found = keel("judge", "label", bare, "-o", "me.csv", "--json").json
    assert found == {"file": "me.csv", "labelled": 16, "left": 0}
    assert set(read_labels("me.csv").labels.values()) == {"1"}
    assert keel("judge", bare, "--judge", "heuristic").code == 0
    agreed = keel("judge", "agree", bare, "heuristic", "me.csv", "--json").json
    assert agreed["n"] == 16
    assert "none" in agreed["labels"]  # the person's 1, in the judgements' words


def test_quitting_keeps_what_is_labelled_and_the_next_call_goes_on(keel, bare, says):
    says("3", "2 half a pirate", "q")
    assert keel("judge", "label", bare, "-o", "me.csv", "--json").json["left"] == 14
    says("0")
    assert keel("judge", "label", bare, "-o", "me.csv", "--json").json["labelled"] == 3
    assert list(read_labels("me.csv").labels.values()) == ["3", "2", "0"]
    assert "half a pirate" in Path("me.csv").read_text(encoding="utf-8")


def test_u_takes_the_last_label_back(keel, bare, says):
    says("u", "3", "u", "1", "q")
    keel("judge", "label", bare, "-o", "me.csv")
    assert list(read_labels("me.csv").labels.values()) == ["1"]


def test_what_is_no_label_is_said_and_asked_again(keel, bare, says):
    says("7", "pirate", "3", "q")
    found = keel("judge", "label", bare, "-o", "me.csv")
    assert "label is 'pirate', expected 0, 1, 2, 3" in " ".join(found.err.split())
    assert list(read_labels("me.csv").labels.values()) == ["3"]


def test_a_limit_ends_it(keel, bare, says):
    says("3", "3", "3")
    assert keel("judge", "label", bare, "-o", "me.csv", "--limit", 2, "--json").json["left"] == 0
    assert len(read_labels("me.csv").labels) == 2


def test_nothing_shows_what_role_judges_said(keel, bare, says):
    assert keel("judge", bare, "--judge", "heuristic").code == 0
    says("q")
    shown = keel("judge", "label", bare, "-o", "me.csv").err
    assert "heuristic" not in shown
    assert "answer" in shown


def test_the_file_is_named_after_what_is_labelled(keel, bare, says):
    says("3", "q")
    assert "bare-labels.csv" in keel("judge", "label", bare).out
    assert len(read_labels("bare-labels.csv").labels) == 1


@pytest.fixture
def evaluation(bare: Path) -> Path:
    """An evaluation of a run with two answers of two arms."""
    from keel.store import ArmRecord, EvaluationFolder, EvaluationPlan, Moved, RunFolder
    from keel.types import Answered, Conversation, Item, Message

    folder = RunFolder(bare)
    place = EvaluationFolder(folder, "susceptibility")
    items = [
        Item(f"i{n}", Conversation((Message("user", f"Who are you, {n}?"),))) for n in range(2)
    ]
    plan = EvaluationPlan(
        folder.read().identity, {"suite": "susceptibility", "rubric": "identity"}, 0, ((0, 1),)
    )
    with place.run.lock():
        place.begin(plan, items)
        for number, arm in enumerate(("none", "capped")):
            place.begin_arm(ArmRecord(arm, number, arm))
            said = [Answered(i.id, arm, f"I am {i.id} {arm}.", 4, "stop") for i in items]
            place.commit(arm, 0, said, Moved())
    return place.path


def test_answers_of_an_evaluation_are_labelled_by_its_rubric_blind_to_the_arm(
    keel, evaluation, says
):
    says("1", "human", "2", "5")
    found = keel("judge", "label", evaluation, "-o", "me.csv")
    assert found.code == 0, found.err
    labels = list(read_labels("me.csv").labels.values())
    assert labels == ["assistant", "human", "human", "nonsensical"]
    assert "I am i0 capped." in found.err  # the answer itself is shown, and nothing else of it
    assert "none" not in found.err.replace("I am i0 none", "").replace("I am i1 none", "")


def test_an_evaluation_with_a_rubric_of_ones_own_needs_its_file(keel, evaluation, says):
    settings = evaluation / "settings.json"
    text = settings.read_text(encoding="utf-8").replace('"rubric": "identity"', '"rubric": "mine"')
    settings.write_text(text, encoding="utf-8")
    found = keel("judge", "label", evaluation)
    assert found.code == 3
    assert "'mine'" in found.err
    assert "--rubrics" in found.err


def test_a_place_that_is_neither_is_refused(keel, place):
    found = keel("judge", "label", "nowhere")
    assert (found.code, found.err.count("\n")) == (3, 1)
    assert "nowhere" in found.err
