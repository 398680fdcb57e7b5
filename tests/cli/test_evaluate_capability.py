"""keel evaluate RUN capability, or RUN TASK."""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval")

from keel.cli.evaluate import names_tasks
from tests.cli.commands import CPU
from tests.evaluate.capability.small import write_items
from tests.evaluate.serving import Served, serving


@pytest.fixture
def files(place):
    """Items by task."""
    return write_items(place)


SHORT = ("--arms", "none,capped", "--max-new-tokens", "6", "--limit", "3", *CPU)


def test_tasks_are_answered_under_every_arm_and_told_as_json(keel, held, files):
    data = f"gsm8k={files['gsm8k']},ifeval={files['ifeval']}"
    found = keel("evaluate", held, "capability", "--data", data, *SHORT, "--json").json
    assert [task["suite"] for task in found["tasks"]] == ["gsm8k", "ifeval"]
    for task in found["tasks"]:
        plain, capped = task["arms"]
        assert (plain["arm"], plain["n"], plain["p_value"]) == ("none", 3, None)
        assert 0 <= plain["ci_low"] <= plain["rate"] <= plain["ci_high"] <= 1
        assert capped["arm"] == "capped"
        assert capped["p_value"] is not None
        assert 0 <= capped["firing_rate"] <= 1


def test_a_task_is_asked_for_by_its_name(keel, held, files):
    found = keel("evaluate", held, "gsm8k", "--data", files["gsm8k"], *SHORT)
    assert found.code == 0, found.err
    assert "Evaluation: gsm8k" in found.out
    assert "Measured: exact_match (flexible-extract), judged by lm-eval" in found.out
    assert "answers were cut at 6 tokens" in " ".join(found.out.split())


def test_a_price_is_told_and_nothing_kept(keel, held, files):
    data = ("--data", files["gsm8k"], "--dry-run", "--json")
    found = keel("evaluate", held, "gsm8k", *data, *SHORT).json
    assert (found["arms"], found["items"], found["answers"]) == (2, 3, 6)
    assert not (held / "evaluations").exists()


def test_what_is_not_installed_is_missed_before_a_model_is_loaded(keel, held, files, monkeypatch):
    """Under vLLM it was told after a minute and a half, when the engine had started."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("keel.cli.console.open_model", lambda *_: pytest.fail("a model was loaded"))
    found = keel("evaluate", held, "gsm8k", "--data", files["gsm8k"], *SHORT)
    assert (found.code, found.err.count("\n")) == (3, 1)
    assert "pip install 'keel-llm[evaluate]'" in found.err


def test_a_served_model_answers_tasks_too(keel, held, files):
    data = ("--data", files["gsm8k"], "--arms", "none,prompt", "--endpoint-model", "m")
    with serving(Served(says=lambda _: "#### 1")) as served:
        found = keel("evaluate", held, "gsm8k", *data, "--endpoint", served.address, "--json").json
        assert len(served.asked) == 14
        keel("evaluate", held, "gsm8k", *data, "--endpoint", served.address)
    assert len(served.asked) == 14  # what is answered is not asked again
    assert {arm["arm"]: arm["n"] for arm in found["arms"]} == {"none": 7, "prompt": 7}
    assert found["arms"][0]["rate"] == pytest.approx(1 / 7)  # 0 and 1 pears make 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("capability", "--data", "sums.jsonl"), "one file for 4 tasks"),
        (("gsm8k", "--data", "ifeval=rules.jsonl"), "ifeval, which is not among the tasks"),
        (("gsm8k", "--data", "gone.jsonl"), "gone.jsonl is not there"),
        (("gsm8k", "--data", "rules.jsonl"), "lacks question, answer, which gsm8k needs"),
        (("gsm8k", "--tasks", "ifeval"), "--tasks is for the suite capability"),
        (("gsm8k", "--temperature", "1"), "leave out --temperature"),
        (("gsm8k", "--endpoint", "nowhere"), "expected one such as http"),
        (("capability", "--tasks", "a,b", "--name", "x"), "--name is of one task, and 2"),
        (("my_own.yaml",), "my_own.yaml is not there"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_nothing_is_kept(keel, held, files, arguments, said):
    found = keel("evaluate", held, *arguments, "--arms", "none", *CPU)
    assert found.code == 3
    assert said in found.err
    assert found.err.strip().count("\n") == 0
    assert not (held / "evaluations").exists()


def test_a_suite_of_keels_mistyped_is_not_taken_for_a_task():
    assert not names_tasks("jailbrake")
    assert names_tasks("hellaswag")
    assert names_tasks("capability")
