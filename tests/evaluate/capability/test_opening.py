"""Tasks that cannot be run are refused in one line, with the remedy."""

from __future__ import annotations

import json
import sys

import pytest

from keel.errors import CorruptArtifactError, MissingArtifactError, UsageError
from keel.evaluate.capability import CapabilitySettings, open_task
from keel.evaluate.capability.loading import _check_allowed, _explained, _unknown
from tests.evaluate.capability.small import CHOICES, CHOICES_YAML, SUMS, opened, requests


def test_the_papers_metric_is_reported(files):
    measures = {name: opened(files, name).measure for name in ("gsm8k", "ifeval", "eq_bench")}
    assert measures == {
        "gsm8k": "exact_match (flexible-extract)",
        "ifeval": "inst_level_strict_acc",
        "eq_bench": "eqbench",
    }


def test_no_examples_stand_in_the_prompt_whatever_the_task_says(engine, files):
    """gsm8k's own file says five."""
    asked = requests(opened(files, "gsm8k"), engine)[0].instances[0].args[0]
    assert asked.count("Question:") == 1


def test_a_limit_takes_the_first_items(files):
    items = opened(files, "gsm8k", limit=2).items()
    assert [item.id for item in items] == ["gsm8k/0", "gsm8k/1"]
    assert "0 pears" in items[0].conversation.messages[0].content


def test_shorter_answers_than_the_task_allows_are_told(files):
    (said,) = opened(files, "gsm8k", max_new_tokens=12).warnings
    assert said.startswith("answers were cut at 12 tokens, where gsm8k allows 256")
    assert not opened(files, "gsm8k", max_new_tokens=256).warnings


def test_a_name_that_lm_eval_lacks_is_answered_with_near_ones():
    assert _unknown("gsm8", ["gsm8k", "mmlu"]) == "lm-eval has no task 'gsm8'; near names: gsm8k"


def test_tasks_that_run_the_models_code_need_the_users_word():
    with pytest.raises(UsageError, match="--allow-code"):
        _check_allowed({"unsafe_code": True}, "humaneval", allows_code=False)
    _check_allowed({"unsafe_code": True}, "humaneval", allows_code=True)


def test_without_hub_and_file_the_remedy_is_named():
    with (
        pytest.raises(MissingArtifactError, match="--data gsm8k=FILE") as told,
        _explained("gsm8k", None),
    ):
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "content", "kind", "said"),
    [
        ("a.jsonl", '{"question": "Why?"}\n', UsageError, "item 1 of .*lacks answer"),
        ("a.jsonl", "", UsageError, "holds no items"),
        ("a.jsonl", "[1, 2]\n", UsageError, r"item 1 of .* is '\[1, 2\]', expected an object"),
        ("a.jsonl", "{nonsense\n", CorruptArtifactError, "cannot be read as items"),
        ("a.json", "3", CorruptArtifactError, "it holds one int"),
        ("a.parquet", "no parquet", CorruptArtifactError, "cannot be read as items"),
    ],
)
def test_a_file_that_does_not_hold_the_tasks_items_is_refused(tmp_path, name, content, kind, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(kind, match=said):
        open_task("gsm8k", CapabilitySettings(), data=tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingArtifactError, match="gone.jsonl is not there"):
        open_task("gsm8k", CapabilitySettings(), data=tmp_path / "gone.jsonl")


def test_items_may_be_lines_a_list_an_object_by_id_or_parquet(tmp_path):
    from datasets import Dataset

    (tmp_path / "a.json").write_text(json.dumps(SUMS))
    (tmp_path / "b.json").write_text(json.dumps({str(n): row for n, row in enumerate(SUMS)}))
    Dataset.from_list(SUMS).to_parquet(tmp_path / "c.parquet")
    for name in ("a.json", "b.json", "c.parquet"):
        task = open_task("gsm8k", CapabilitySettings(), data=tmp_path / name)
        assert len(task.items()) == len(SUMS)


def test_subjects_of_which_a_file_has_no_items_are_left_out(tmp_path):
    """MMLU-Pro is fourteen tasks that share one file."""
    row = {"question": "2 + 2?", "options": ["3", "4"], "answer": "B", "cot_content": ""}
    rows = [{**row, "category": kind} for kind in ("math", "law", "math")]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    task = open_task("mmlu_pro", CapabilitySettings(), data=tmp_path / "a.json")
    names = sorted(item.id for item in task.items())
    assert task.measure == "exact_match (custom-extract)"
    assert names == ["mmlu_pro_law/0", "mmlu_pro_math/0", "mmlu_pro_math/1"]
    limited = open_task("mmlu_pro", CapabilitySettings(limit=1), data=tmp_path / "a.json")
    assert len(limited.items()) == 2


def test_a_task_of_the_users_own_that_lacks_fields_says_so(tmp_path):
    (tmp_path / "own.yaml").write_text(CHOICES_YAML)
    (tmp_path / "a.jsonl").write_text('{"asked": "Why?"}\n')
    with pytest.raises(UsageError, match="needs the fields of the task's own data"):
        open_task(str(tmp_path / "own.yaml"), CapabilitySettings(), data=tmp_path / "a.jsonl")


def test_a_field_that_the_first_item_lacks_is_read_of_the_others(tmp_path):
    """`Dataset.from_list` has the first item's fields alone, where lm-eval's own reader has all.

    A hint that later items have was refused as a field that the file lacks.
    """
    hinted = CHOICES_YAML.replace("{{asked}}", "{{hint or ''}}{{asked}}")
    (tmp_path / "own.yaml").write_text(hinted)
    rows = [CHOICES[0], {**CHOICES[1], "hint": "It is hot. "}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    task = open_task(str(tmp_path / "own.yaml"), CapabilitySettings(), data=tmp_path / "a.json")
    shown = [item.conversation.messages[0].content for item in task.items()]
    assert shown == ["Rain falls from the", "It is hot. Bread is baked in the"]


def test_a_task_of_pictures_is_refused(files, tmp_path):
    (tmp_path / "own.yaml").write_text(CHOICES_YAML + 'doc_to_image: "{{asked}}"\n')
    with pytest.raises(UsageError, match="shows pictures or sounds"):
        open_task(str(tmp_path / "own.yaml"), CapabilitySettings(), data=files["mild_choices"])


def test_without_the_extra_it_is_named(monkeypatch):
    from keel.errors import MissingExtraError

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"keel-llm\[evaluate\]"):
        open_task("gsm8k", CapabilitySettings())


def test_nothing_is_printed(files, capfd):
    task = opened(files, "eq_bench")
    task.items()
    assert capfd.readouterr() == ("", "")


def test_lm_eval_is_not_imported_before_it_is_needed():
    import subprocess

    code = (
        "import sys, keel.evaluate.capability; assert not {'lm_eval', 'datasets'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
