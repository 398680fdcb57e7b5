"""Uncapped, Keel's class gives exactly what lm-eval's own `hf` model gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import keel
from keel.evaluate.capability import CapabilitySettings, open_task
from keel.evaluate.capability.loading import read_items
from tests.evaluate.capability.small import (
    answered,
    as_lm_eval_does,
    opened,
    responses,
    task_result,
    texts,
)

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_generated_texts_and_scores_are_those_of_lm_evals_own_model(
    engine, model_folder, files, tmp_path, batch_size
):
    """Seven items: in batches of three lm-eval makes three, longest first, and so does Keel."""
    task = opened(files, "gsm8k", batch_size=batch_size)
    ours = answered(engine, task)
    theirs, results = as_lm_eval_does(
        str(model_folder), "gsm8k", files["gsm8k"], cache=tmp_path, batch_size=batch_size
    )
    assert responses(ours.answers) == theirs
    assert len(set(texts(ours))) > 1  # else any two models would agree
    found = task_result(task, [ours]).arm("none")
    assert found.rate.value == results["exact_match,flexible-extract"]


def test_log_likelihoods_are_those_of_lm_evals_own_model(engine, model_folder, files, tmp_path):
    """One item at a time: a batch's shape moves the last digit of a float32."""
    task = opened(files, "mild_choices", batch_size=1)
    ours = answered(engine, task)
    theirs, results = as_lm_eval_does(
        str(model_folder),
        "mild_choices",
        files["mild_choices"],
        cache=tmp_path,
        folder=files["mild_choices"].parent,
    )
    assert responses(ours.answers) == [[[list(r) for r in one] for one in doc] for doc in theirs]
    found = task_result(task, [ours]).arm("none")
    assert found.rate.value == results["acc,none"]


@pytest.mark.parametrize("batch_size", [2, 32])
def test_log_likelihoods_in_batches_are_the_same_to_six_digits(engine, files, batch_size):
    one_by_one = answered(engine, opened(files, "mild_choices", batch_size=1))
    together = answered(engine, opened(files, "mild_choices", batch_size=batch_size))
    numbers = [
        [value for doc in responses(found.answers) for ((value, _),) in doc]
        for found in (one_by_one, together)
    ]
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-5)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("gsm8k", "gsm8k_test_first500.jsonl", "exact_match,flexible-extract"),
        ("eq_bench", "eq_bench_v2_171.json", "eqbench,none"),
        ("ifeval", "ifeval_541.jsonl", "inst_level_strict_acc,none"),
    ],
)
def test_on_a_real_model_and_real_items_nothing_differs(name, file, key, tmp_path):
    """SmolLM2 in float32, 8 items in batches of 4, answers cut at 32 tokens (64 for EQ-Bench, whose
    form needs them)."""
    from keel.engines.catalogue import locate

    if not (SHARED / file).exists():
        pytest.skip(f"no {SHARED / file}")
    new = 64 if name == "eq_bench" else 32
    settings = CapabilitySettings(limit=8, max_new_tokens=new, batch_size=4)
    task = open_task(name, settings, data=SHARED / file)
    ours = answered(keel.open_engine("smollm2", device="cpu", dtype="float32"), task)
    as_lines = tmp_path / "items.jsonl"  # lm-eval cannot read EQ-Bench's own form
    rows = read_items(SHARED / file, name)[:8]
    as_lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    theirs, results = as_lm_eval_does(
        locate("smollm2"), name, as_lines, cache=tmp_path, batch_size=4, max_new_tokens=new, limit=8
    )
    assert responses(ours.answers) == theirs
    found = task_result(task, [ours]).arm("none")
    assert found.rate.value == pytest.approx(results[key], rel=1e-12)
