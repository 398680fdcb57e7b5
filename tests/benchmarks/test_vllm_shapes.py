"""What is measured at a model's shape, and what is refused for want of a device or of memory."""

import json
from itertools import groupby

import pytest

from benchmarks.measuring import NotMeasuredError
from benchmarks.vllm.__main__ import main
from benchmarks.vllm.loads import PLAIN, _compared, _in_order, _Pool
from benchmarks.vllm.shapes import LOADS, SHAPES, Device

H200, H100 = Device("H200", 150.0, 149.0), Device("H100", 85.0, 84.0)


def test_the_shapes_are_those_of_the_models():
    # Llama 3.1 8B has 8.03e9 parameters, Qwen3 32B 32.76e9; two bytes each.
    assert SHAPES["llama-8b"].weights_gb == pytest.approx(16.06, rel=0.01)
    assert SHAPES["qwen3-32b"].weights_gb == pytest.approx(65.5, rel=0.01)


def test_a_config_is_all_that_vllm_needs_of_a_shape(tmp_path):
    config = json.loads((SHAPES["qwen3-32b"].write(tmp_path) / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["num_hidden_layers"] == 64


def test_engines_run_side_by_side_where_they_fit_and_in_turn_where_not():
    assert H200.engines_at_once(SHAPES["llama-8b"], 4) == 4
    assert H100.engines_at_once(SHAPES["llama-8b"], 4) == 1
    assert H200.engines_at_once(SHAPES["qwen3-32b"], 4) == 1
    assert Device("cpu", 0.0, 0.0).engines_at_once(SHAPES["tiny"], 4) == 4


def test_too_little_memory_and_no_gpu_are_refused_in_one_line(monkeypatch, capsys):
    with pytest.raises(NotMeasuredError, match=r"qwen3-32b takes .* and L4 has 23 of 24 GB free"):
        Device("L4", 24.0, 23.0).engines_at_once(SHAPES["qwen3-32b"], 4)
    monkeypatch.setattr(Device, "here", classmethod(lambda cls: cls("cpu", 0.0, 0.0)))
    assert main(["--shape", "llama-8b", "--dummy"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "torch sees none here; --shape tiny" in line


@pytest.mark.parametrize("arguments", [["--shape", "tiny"], ["--dummy"], ["--json"]])
def test_a_shape_is_measured_with_made_up_weights_only(arguments):
    with pytest.raises(SystemExit):
        main(arguments)


@pytest.mark.parametrize("fit", [5, 1])
def test_each_round_asks_every_row_for_every_load_once(fit):
    engines = dict.fromkeys(("plain", "global", "per request", "means", "watched"))
    pool = _Pool(engines, {}, "eager", fit)
    for number in (0, 1):
        order = [(name, load.name) for name, _, load in _in_order(pool, number)]
        assert len(order) == len(set(order)) == 7 * len(LOADS)
        if fit == 1:  # an engine is started once a round
            starts = [row.engine for _, row, _ in _in_order(pool, number)]
            assert sorted(engine for engine, _ in groupby(starts)) == sorted(engines)


def test_a_row_is_compared_with_plain_vllm_of_its_own_round():
    def took(*walls):
        return [{"wall_s": wall, "step_s": 1.0, "collect_s": 0.0} for wall in walls]

    compared = _compared({PLAIN: took(1, 2, 4), "plugin idle": took(1.1, 2.0, 4.8)})
    assert compared["plugin idle"]["ratio"]["median"] == pytest.approx(1.1)  # 1.1, 1.0, 1.2
    assert compared[PLAIN]["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
