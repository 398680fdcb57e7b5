"""Under vLLM's compiler, with its cache of graphs: real compilations, each in its own process."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from keel.engines import open_engine
from tests.engines.vllm.child_run import PROMPTS, measured, run, settings_at
from tests.engines.vllm.serving_vllm import GREEDY, by_index, tiny

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Layer 1 held, then layer 2 with the first one's graphs in the cache, then layer 1 again."""
    folder = tiny(tmp_path_factory.mktemp("compiled"))
    cache = tmp_path_factory.mktemp("cache")
    return folder, [
        run(folder, layer, {"VLLM_CACHE_ROOT": str(cache)}, eager=False, recordings=0, probes=0)
        for layer in (1, 2, 1)
    ]


def test_a_compiled_engine_answers_as_the_transformers_engine_does(runs):
    folder, found = runs
    plain = open_engine(str(folder), dtype="float32", device="cpu")
    for one, layer in zip(found, (1, 2, 1), strict=True):
        assert one["mode"] > 0  # it was compiled
        for answers, interventions in zip(one["answers"], settings_at(layer), strict=True):
            theirs = by_index(plain.generate(PROMPTS, GREEDY, seed=0, interventions=interventions))
            assert answers == [list(theirs[n].token_ids) for n in range(len(PROMPTS))]


def test_the_settings_do_change_the_answers(runs):
    for one in runs[1]:
        plain, held, other, again = one["answers"]
        assert plain != held
        assert held != other
        assert again == plain


def test_another_band_after_a_cached_one_caps_its_own_layer(runs):
    """vLLM's key does not know what Keel wraps; a graph of layer 1 must not serve layer 2."""
    _, (first, second, third) = runs
    assert list(first["fired"][1]) == ["1"]
    assert list(second["fired"][1]) == ["2"]
    assert first["fired"][1]["1"] > 0
    assert second["fired"][1]["2"] > 0
    assert first["key"] != second["key"]
    assert first["key"] == third["key"]


def test_a_second_start_of_the_same_band_is_the_first_again(runs):
    _, (first, _, third) = runs
    assert third["answers"] == first["answers"]
    assert third["fired"] == first["fired"]


def test_new_vectors_and_thresholds_compile_nothing(runs):
    assert [one["new_graphs"] for one in runs[1]] == [0, 0, 0]


def test_a_compiled_engine_records_what_the_transformers_engine_does(tmp_path):
    """Answers in the graph, one token a step; turns that are read, many at once, outside it."""
    folder = tiny(tmp_path)
    found = run(folder, 1, {}, eager=False, recordings=4, probes=0)
    assert found["mode"] > 0
    theirs = measured(open_engine(str(folder), dtype="float32", device="cpu"), 1)
    for name, numbers in found["measured"].items():
        for ours, other in zip(numbers, theirs[name], strict=True):
            torch.testing.assert_close(
                torch.tensor(ours), torch.tensor(other), rtol=1e-4, atol=1e-4, msg=name
            )


def test_two_devices_that_share_each_layer_answer_as_one_does(runs):
    """Tensor parallel: after the all-reduce each rank holds the whole stream and does the same."""
    folder, (one, _, _) = runs
    # Two processes on two cores: without these, vLLM binds both to the same one.
    shared = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    two = run(folder, 1, shared, tensor_parallel_size=2)
    assert two["answers"] == one["answers"]
    assert two["fired"] == one["fired"]
    assert two["fired"][1]["1"] > 0
