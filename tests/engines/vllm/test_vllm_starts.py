"""What needs an engine of its own: how it starts, and when it refuses to."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from keel.engines import Recording, open_engine
from keel.errors import MissingExtraError, ModelLoadError, NotAppliedError
from keel.types import Sampling
from tests.engines.vllm.serving_vllm import GREEDY, HIDDEN, band, by_index, prompt, started, tiny

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]

PROMPTS = [prompt(text) for text in ("hello there", "a", "what is the sea like", "go on")]
HIGH = 3.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def plain(folder):
    return open_engine(str(folder), dtype="float32", device="cpu")


def test_a_prompt_read_in_chunks_and_a_preempted_answer_record_the_same(folder, plain):
    """Eight tokens a step, and a cache too small for all answers at once."""
    prompts = [prompt(f"tell me of the sea, part {n}, and of the ship", f"p{n}") for n in range(6)]
    sampling = Sampling(max_new_tokens=60, temperature=0)
    asked = {"seed": 0, "recording": Recording(means=True), "interventions": band(HIGH)}
    theirs = by_index(plain.generate(prompts, sampling, **asked))
    tight = {
        "max_num_batched_tokens": 8,
        "max_num_seqs": 6,
        "num_gpu_blocks_override": 12,
        "block_size": 32,
    }
    with started(folder, max_model_len=128, arguments=tight) as engine:
        preempted = _counted_preemptions(engine)
        ours = by_index(engine.generate(prompts, sampling, **asked))
    assert preempted
    for place, one in theirs.items():
        assert ours[place].token_ids == one.token_ids
        torch.testing.assert_close(
            ours[place].activations.means_LD, one.activations.means_LD, rtol=1e-4, atol=1e-4
        )


def test_prompts_that_no_step_holds_together_are_answered_with_their_seeds(folder):
    """vLLM on a CPU reads the last of them in parts, and died of it where answers had seeds; each
    answer is the one that its seed gives to a prompt read in one piece."""
    prompts = [prompt(f"tell me of the sea, part {n}, " + "and more " * 9) for n in range(8)]
    sampling = Sampling(max_new_tokens=6, temperature=1.0)
    with started(folder, max_model_len=128, arguments={"max_num_batched_tokens": 128}) as engine:
        lengths = [len(engine.template.prompt_ids(one.conversation)) for one in prompts]
        assert sum(lengths) > 128 > max(lengths) + 6
        together = by_index(engine.generate(prompts, sampling, seed=7))
        alone = [by_index(engine.generate([one], sampling, seed=7))[0] for one in prompts]
    assert [together[n].token_ids for n in range(len(prompts))] == [one.token_ids for one in alone]


DRAFTED_UNDER = ([], band(HIGH), band(1e3), [])
"""A floor far above every token makes the model repeat itself, so that drafts are accepted."""
LONG_ENOUGH_TO_DRAFT = Sampling(max_new_tokens=40, temperature=0)


def test_drafted_tokens_are_held_under_the_setting_of_their_request(folder, plain):
    """The model's pass over them is held like any other. In a process of its own: vLLM starts no
    second engine in one whose drafts loaded numba."""
    drafting = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        ours, drafted, accepted = child.submit(_answers_by_drafts, folder, drafting).result()
    assert ours == _answers_in_turn(plain)
    assert drafted >= accepted > 0


def test_drafts_of_eagle_which_reads_held_streams_change_no_answer(folder, plain, tmp_path):
    """Its head is made from the model's last hidden states, as they are after the floors; what it
    proposes is checked in the model's own pass, which is held."""
    drafting = {"method": "eagle", "num_speculative_tokens": 2}
    drafting["model"] = str(_eagle_head(tmp_path / "eagle"))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        ours, drafted, _ = child.submit(_answers_by_drafts, folder, drafting).result()
    assert ours == _answers_in_turn(plain)
    assert drafted > 0


def _eagle_head(folder):
    """A random head of EAGLE's for the tiny model: one layer over its embeddings and streams."""
    source = tiny(folder.with_name("single"), layers=1)
    weights = load_file(source / "model.safetensors")
    layer = {
        name.removeprefix("model."): weight
        for name, weight in weights.items()
        if name.startswith("model.layers.") and "input_layernorm" not in name
    }
    draws = torch.Generator().manual_seed(0)
    layer["fc.weight"] = torch.randn(HIDDEN, 2 * HIDDEN, generator=draws) / HIDDEN**0.5
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    save_file(layer, folder / "model.safetensors")
    return folder


def _answers_in_turn(engine):
    """What is answered under each setting."""
    found = []
    for interventions in DRAFTED_UNDER:
        asked = {"seed": 0, "interventions": interventions}
        answers = by_index(engine.generate(PROMPTS, LONG_ENOUGH_TO_DRAFT, **asked))
        found.append({n: tuple(one.token_ids) for n, one in answers.items()})
    return found


def _answers_by_drafts(folder, drafting):
    """The same with drafts; how many tokens were drafted, and how many of them accepted."""
    with started(
        folder, recordings=0, probes=0, arguments={"speculative_config": drafting}
    ) as engine:
        drafted, accepted = _counted_drafts(engine)
        return _answers_in_turn(engine), sum(drafted), sum(accepted)


def _counted_drafts(engine):
    """How many tokens each step drafts, and each answer's step accepts, from now on."""
    scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
    update, drafted, accepted = scheduler.update_from_output, [], []

    def noted(scheduled, output):
        drafted.extend(len(each) for each in scheduled.scheduled_spec_decode_tokens.values())
        accepted.extend(len(tokens) - 1 for tokens in output.sampled_token_ids if tokens)
        return update(scheduled, output)

    scheduler.update_from_output = noted
    return drafted, accepted


def _counted_preemptions(engine):
    """Requests as the scheduler puts them back, from now on."""
    scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
    preempt, found = scheduler._preempt_request, []

    def noted(request, *args, **kwargs):
        found.append(request.request_id)
        return preempt(request, *args, **kwargs)

    scheduler._preempt_request = noted
    return found


def test_more_answers_than_can_be_recorded_at_once_wait_their_turn(folder, plain):
    prompts = [prompt(f"part {n}") for n in range(9)]
    asked = {"seed": 0, "recording": Recording(means=True)}
    theirs = by_index(plain.generate(prompts, GREEDY, **asked))
    with started(folder, recordings=2, probes=0) as engine:
        ours = by_index(engine.generate(prompts, GREEDY, **asked))
    assert {n: c.token_ids for n, c in ours.items()} == {n: c.token_ids for n, c in theirs.items()}


@pytest.mark.parametrize(
    ("family", "tolerance"),
    [
        ("qwen3", 1e-4),
        ("mistral", 1e-4),
        ("qwen3_moe", 1e-4),
        ("gemma3", 1e-2),
        # vLLM's own Gemma differs from transformers' by 0.15 % a layer, plain as well as held.
        ("gemma2", 1e-2),
        ("gpt_neox", 1e-4),  # vLLM has no class of its own for it, and runs transformers'
    ],
)
def test_families_agree_with_the_other_engine_uncapped_and_capped(tmp_path, family, tolerance):
    where = tiny(tmp_path, family)
    other = open_engine(str(where), dtype="float32", device="cpu")
    calls = [
        {"seed": 0, "recording": Recording(means=True), "interventions": interventions}
        for interventions in ([], band(HIGH))
    ]
    # Before vLLM starts: where it runs a class of transformers, it changes it for all the process.
    expected = [by_index(other.generate(PROMPTS, GREEDY, **call)) for call in calls]
    with started(where) as engine:
        for call, theirs in zip(calls, expected, strict=True):
            ours = by_index(engine.generate(PROMPTS, GREEDY, **call))
            for index, completion in theirs.items():
                assert ours[index].token_ids == completion.token_ids
                apart = ours[index].activations.means_LD - completion.activations.means_LD
                length = completion.activations.means_LD.norm(dim=-1)
                assert float((apart.norm(dim=-1) / length).max()) < tolerance


def test_an_engine_whose_floors_do_nothing_does_not_start(folder, monkeypatch):
    from keel.engines.vllm import layers

    monkeypatch.setattr(layers.SteeredLayer, "_steer", lambda self, hidden, residual: hidden)
    with pytest.raises(NotAppliedError, match=r"moved|saw"), started(folder):
        pass


def test_an_engine_that_counts_but_does_not_move_does_not_start(folder, monkeypatch):
    from keel.engines.vllm import layers

    steer = layers.SteeredLayer._steer

    def pretend(self, hidden, residual):
        steer(self, hidden, residual)
        return hidden

    monkeypatch.setattr(layers.SteeredLayer, "_steer", pretend)
    with pytest.raises(NotAppliedError, match="changed nothing"), started(folder):
        pass


def test_an_engine_that_leaks_steering_does_not_start(folder, monkeypatch):
    """An unsteered request after a steered one must be what it was before."""
    from keel.engines.vllm import layers

    write = layers.SteeredLayer.write

    def forgetful(self, slot, setting):
        write(self, slot, setting)
        if setting is not None:  # the floor sticks to row 0, which means `no setting`
            self.directions_SKD[0] = self.directions_SKD[slot]
            self.numbers_PKN[0] = self.numbers_PKN[2 * slot]

    monkeypatch.setattr(layers.SteeredLayer, "write", forgetful)
    with pytest.raises(NotAppliedError, match="not what it was before"), started(folder):
        pass


def test_an_engine_whose_plugin_never_held_the_model_does_not_start(folder, monkeypatch):
    from keel.engines.vllm import plugin

    monkeypatch.setattr(plugin, "_deployment", lambda config: None)
    with pytest.raises(Exception, match="holds nothing"), started(folder):
        pass


def test_the_canary_ends_an_engine_whose_layer_is_passed_by(folder):
    """At start all was well; later something runs the model past a layer of ours."""
    with started(folder) as engine:
        keel = engine.llm.llm_engine.engine_core.engine_core.keel
        keel.canary_s, keel.next_canary = 1e-3, 0.0
        tests = keel.tests
        by_index(engine.generate(PROMPTS, GREEDY, seed=0, interventions=band(HIGH)))
        assert keel.tests > tests  # it was idle in between, and tested itself
        hold = engine.llm.llm_engine.model_executor.driver_worker.worker.keel_worker
        hold.layers[1].forward = lambda output: output
        with pytest.raises(Exception, match="do not trust these outputs"):
            by_index(engine.generate(PROMPTS, GREEDY, seed=0, interventions=band(HIGH)))


def test_a_version_of_vllm_that_was_not_tested_is_refused(folder, monkeypatch):
    from keel.engines.vllm import plugin as versions

    monkeypatch.setattr(versions, "TESTED", ("9.9.",))
    with (
        pytest.raises(MissingExtraError, match=r"was not tested, expected 9\.9\."),
        started(folder),
    ):
        pass


def test_what_vllm_says_against_a_config_is_passed_on(folder):
    """Its errors begin with how many they are, and only that was shown."""
    longer = pytest.raises(ModelLoadError, match=r"vLLM cannot load .*max_model_len \(1000000\)")
    with longer, started(folder, max_model_len=10**6):
        pass


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="it is installed")
def test_a_class_that_needs_torchvision_is_refused_with_the_remedy(tmp_path):
    """vLLM says that it failed to inspect the class, and to look at a log that has nothing."""
    missing = pytest.raises(ModelLoadError, match="need torchvision, which is not installed: inst")
    with missing, started(tiny(tmp_path, "gemma3_vision")):
        pass


def test_an_engine_that_dies_ends_the_command_with_one_line(folder, tmp_path):
    """As when memory runs out: the system ends vLLM's process without a word, and vLLM waited for
    it for ever."""
    command = [
        *(sys.executable, "-m", "keel", "extract", str(folder), "-o", str(tmp_path / "run")),
        *("--engine", "vllm:eager=true,max_model_len=512,recordings=4", "--dtype", "float32"),
        *("--role-count", "3", "--question-count", "4", "--max-new-tokens", "200"),
    ]
    env = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1"}
    env.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        while not (tmp_path / "run" / "plan.json").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        (core,) = [p for p in psutil.Process(process.pid).children(True) if _is_core(p)]
        core.kill()
        said = process.stderr.read()
        assert process.wait() == 3, said
    assert said.count("keel: vLLM's engine has died") == 1
    assert "Traceback" not in said


def _is_core(process):
    return "EngineCore" in " ".join(process.cmdline())


def test_a_cache_that_gives_one_setting_the_keys_of_another_does_not_start(
    folder, tmp_path, monkeypatch
):
    """Its connector was on no list inside MultiConnector; here it is let in, and tried out. What it
    held is let go: the next engine of this process was run with that connector, and failed."""
    from keel.engines.vllm import serving

    example = "ExampleConnector"
    monkeypatch.setattr(serving, "SALTED_CONNECTORS", (example,))
    extra = {"shared_storage_path": str(tmp_path)}
    transfer = {"kv_connector": example, "kv_role": "kv_both", "kv_connector_extra_config": extra}
    asked = {"recordings": 0, "probes": 0, "arguments": {"kv_transfer_config": transfer}}
    with pytest.raises(NotAppliedError, match=f"{example} gave"), started(folder, **asked):
        pass
    with started(folder, recordings=0, probes=0) as engine:
        assert by_index(engine.generate(PROMPTS, GREEDY, seed=0))
