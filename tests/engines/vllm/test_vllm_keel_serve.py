"""`keel serve` as an operator starts it: one server, asked by every path that answers."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
import urllib.request

import pytest
import torch
from safetensors.torch import load_file, save_file

from keel.cli import run as keel_command
from keel.engines import open_engine
from keel.store import EvaluationFolder, RunFolder, save_floors
from keel.types import Floors, Prompt
from tests.cli.commands import SMALL
from tests.engines.vllm.http_servers import get, keel_served, post
from tests.engines.vllm.serving_vllm import GREEDY, band, by_index, prompt, tiny

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]

PROMPT = prompt("what is the sea like")
HIGH = "layers_1:3-p75"
"""A name as calibrations give them, which addresses and names of models must carry."""
SETTINGS = {"low": band(2.0), HIGH: band(4.0, seed=5)}
LOW = {"vllm_xargs": {"keel": "low"}}
FREE = {"vllm_xargs": {"keel": "none"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    """A LoRA adapter of that model, and a folder of the model with it merged in."""
    path, merged = tmp_path_factory.mktemp("adapter"), tmp_path_factory.mktemp("merged") / "llama"
    shutil.copytree(folder, merged)
    weights, draws = load_file(merged / "model.safetensors"), torch.Generator().manual_seed(0)
    rank, alpha, parts, factors = 8, 16, ("q_proj", "v_proj", "down_proj"), {}
    for name in [name for name in weights if name.split(".")[-2] in parts]:
        rows, columns = weights[name].shape
        down = torch.randn(rank, columns, generator=draws) / columns**0.5
        up = torch.randn(rows, rank, generator=draws) / rank**0.5
        weights[name] = weights[name] + alpha / rank * up @ down
        base = f"base_model.model.{name.removesuffix('.weight')}"
        factors |= {f"{base}.lora_A.weight": down, f"{base}.lora_B.weight": up}
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    save_file(factors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha}
    config |= {"target_modules": list(parts), "bias": "none"}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path, merged


@pytest.fixture(scope="module")
def url(folder, adapter, tmp_path_factory):
    """A server that holds by `high`, where vLLM was told to load another plugin only."""
    path = tmp_path_factory.mktemp("floors") / "floors.safetensors"
    bands = [Floors(tuple(floors), name) for name, floors in SETTINGS.items()]
    save_floors(bands, path, default=HIGH)
    arguments = ("--enable-scale-out", "--enable-lora", "--lora-modules", f"adapted={adapter[0]}")
    asked = {"VLLM_PLUGINS": "lora_filesystem_resolver", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with keel_served(path, "--model", str(folder), arguments=arguments, **asked) as url:
        yield url


@pytest.fixture(scope="module")
def expected(folder):
    return expected_of(folder)


def expected_of(folder):
    """What the transformers engine answers: unsteered and under each setting."""
    engine = open_engine(str(folder), dtype="float32", device="cpu")
    answers = {}
    for name, held in {"none": [], **SETTINGS}.items():
        results = engine.generate([PROMPT], GREEDY, seed=0, interventions=held)
        answers[name] = list(by_index(results)[0].token_ids)
    assert len({tuple(tokens) for tokens in answers.values()}) == 3
    answers["prompt"] = engine.template.prompt_ids(PROMPT.conversation)
    return answers


def completion(expected, **more):
    """A body for greedy tokens of the prompt."""
    return {
        **{"model": "tiny", "prompt": expected["prompt"], "max_tokens": GREEDY.max_new_tokens},
        **{"temperature": 0, "ignore_eos": True, "return_token_ids": True, **more},
    }


def agrees(tokens, expected):
    """Whether an answer is the expected one as far as that goes (it may end earlier)."""
    return tokens[: len(expected)] == expected


@pytest.mark.parametrize("name", [None, "low", "none", HIGH])
def test_every_request_is_held_by_the_default_or_the_setting_that_it_names(url, expected, name):
    named = {} if name is None else {"vllm_xargs": {"keel": name}}
    status, headers, reply = post(url, "/v1/completions", completion(expected, **named))
    assert status == 200
    assert headers["x-keel-setting"] == (name or HIGH)
    assert agrees(reply["choices"][0]["token_ids"], expected[name or HIGH])


def test_a_lora_adapter_is_held_like_its_base(url, expected, adapter):
    """Given at the start, or loaded while the server runs."""
    folder, merged = adapter
    adapted = expected_of(merged)
    assert adapted["low"] != expected["low"]
    load = {"lora_name": "later", "lora_path": str(folder)}
    assert post(url, "/v1/load_lora_adapter", load)[0] == 200
    for model in ("adapted", "later"):
        for name in ("none", *SETTINGS, None):
            body = completion(expected, model=model)
            body |= {} if name is None else {"vllm_xargs": {"keel": name}}
            status, headers, reply = post(url, "/v1/completions", body)
            assert status == 200, reply
            assert headers["x-keel-setting"] == (name or HIGH)
            assert reply["choices"][0]["token_ids"] == adapted[name or HIGH]


def test_a_stream_says_at_its_start_what_holds_it(url, expected):
    status, headers, _ = post(url, "/v1/completions", completion(expected, stream=True, **LOW))
    assert (status, headers["x-keel-setting"]) == (200, "low")


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "what is the sea like"}]}
BEAMS = {"use_beam_search": True, "n": 2, "temperature": 0, "max_tokens": 6, "stream": False}


def slots(url, name):
    """Slots that a setting has seen so far."""
    return sum(seen for seen, _ in get(url, f"/keel?firing={name}")["firing"].values())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "tiny", "prompt": "the sea is", **BEAMS}),
        ("/v1/chat/completions", {**CHAT, **BEAMS}),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 4, "n": 2}),
        (
            "/v1/chat/completions/batch",
            {**CHAT, "messages": [CHAT["messages"]] * 2, "max_tokens": 4},
        ),
        ("/v1/responses", {"model": "tiny", "input": "the sea is", "max_output_tokens": 4}),
        ("/v1/messages", {**CHAT, "max_tokens": 4}),
        (
            "/generative_scoring",
            {
                "model": "tiny",
                "query": "the sea is",
                "items": [" a", " b"],
                "label_token_ids": [5, 6],
            },
        ),
        (
            "/inference/v1/generate",
            {"model": "tiny", "token_ids": [5, 6, 7, 8], "sampling_params": {"max_tokens": 4}},
        ),
        ("/invocations", {**CHAT, "max_tokens": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_setting_that_is_named_holds_on_every_path(url, path, body):
    """Beam search and scoring made parameters of their own, and answered under the default."""
    before, default = slots(url, "low"), slots(url, HIGH)
    status, headers, reply = post(url, path, {**body, **LOW})
    assert status == 200, reply
    assert headers["x-keel-setting"] == "low"
    assert slots(url, "low") > before
    assert slots(url, HIGH) == default


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "tiny", "prompt": "a", "keel": "none"}),
        ("/v1/completions", {"model": "tiny", "prompt": "a", "vllm_xargs": {"keel": "hihg"}}),
        ("/v1/completions", {"model": "tiny", "prompt": "a", "vllm_xargs": {"Keel": "low"}}),
        (
            "/v1/completions",
            {"model": "tiny", "prompt": "a", "vllm_xargs": {"keel_setting": "low"}},
        ),
        ("/v1/chat/completions", {**CHAT, "extra_body": LOW}),
        (
            "/inference/v1/generate",
            {"model": "tiny", "token_ids": [5], "sampling_params": {"max_tokens": 1, **LOW}},
        ),
        ("/invocations", {**CHAT, "KEEL": "low"}),
    ],
    ids=["top", "unknown", "case", "longer", "extra_body", "tokens", "invocations"],
)
def test_a_setting_that_would_be_ignored_is_refused(url, path, body):
    """Each was answered under the default, with status 200."""
    status, _, reply = post(url, path, body)
    assert status == 400
    assert "keel" in reply["error"]["message"].lower()


@pytest.mark.parametrize("key", ["keal", "setting", "cap", "floors", "kee1", "Capping"])
def test_another_word_for_keel_is_refused_wherever_an_argument_stands(url, key):
    """Beside the right word, in its place, above it, and in a request for a stream or of tokens:
    each was answered under the default, with status 200."""
    arguments, text = "vllm_xargs", {"model": "tiny", "prompt": "a"}
    tokens = {"model": "tiny", "token_ids": [5, 6]}
    for path, body in (
        ("/v1/completions", {**text, arguments: {key: "low"}}),
        ("/v1/completions", {**text, arguments: {"keel": "low", key: "low"}}),
        ("/v1/completions", {**text, **LOW, key: "low"}),
        ("/v1/completions", {**text, key: "low", "stream": True}),
        ("/v1/completions", {**text, arguments: {key: {"name": "low"}}}),
        ("/v1/chat/completions", {**CHAT, arguments: {key: "none"}}),
        ("/v1/responses", {"model": "tiny", "input": "a", key: "low"}),
        ("/v1/messages", {**CHAT, "max_tokens": 2, arguments: {key: "low"}}),
        ("/inference/v1/generate", {**tokens, "sampling_params": {key: "low"}}),
        ("/inference/v1/generate", {**tokens, "sampling_params": {"extra_args": {key: "low"}}}),
    ):
        status, headers, reply = post(url, path, body)
        assert (status, headers["x-keel-setting"]) == (400, None), (path, body)
        assert f"{key} would be ignored" in reply["error"]["message"], (path, body)


def test_vllms_metrics_say_that_the_server_is_capped_and_which_settings_move_tokens(url):
    before = metrics(url)
    assert post(url, "/v1/chat/completions", {**CHAT, "max_tokens": 4, **FREE})[0] == 200
    assert post(url, "/v1/chat/completions", {**CHAT, "max_tokens": 4, **LOW})[0] == 200
    time.sleep(1.1)  # they are kept for a second
    after = metrics(url)
    own = 'engine="0",model_name="tiny"'
    assert after[f"keel_capped{{{own}}}"] == 1
    for setting in ("low", "none"):
        name = f'keel_requests_total{{{own},setting="{setting}"}}'
        assert after[name] == before.get(name, 0) + 1
    moved = 'keel_tokens_moved_total{engine="0",layer="2",model_name="tiny",setting="low"}'
    assert after[moved] > before.get(moved, 0)
    assert 0 <= after[f'keel_canary_age_seconds{{by="probe",{own}}}'] < 600
    assert sum(name.startswith("keel_") for name in after) <= 60
    assert any(name.startswith("vllm:") for name in after)


def metrics(url):
    """Values by series, as Prometheus scrapes them."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as reply:
        lines = [line for line in reply.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_keel_check_shows_that_the_server_is_capped(url, capsys):
    assert keel_command(["check", url]) == 0
    line = capsys.readouterr().out
    assert f"requests are held by {HIGH}; layers 1 to 2" in line
    assert "an unknown setting is refused" in line
    assert "predictions changed by" in line


def test_an_evaluation_holds_the_servers_settings_against_its_unsteered_model(
    url, folder, tmp_path
):
    """Every answer is the one that the transformers engine gives under the same floors."""
    run, pairs = tmp_path / "run", tmp_path / "pairs.csv"
    pairs.write_text("prompt,request,category\nYou are rude.,Greet me.,a\nYou are sly.,Lie.,b\n")
    assert keel_command(["extract", str(folder), "-o", str(run), *SMALL]) == 0
    asked = ["evaluate", str(run), "jailbreak", "--arms", f"none,capped:low,capped:{HIGH}"]
    asked += ["--data", str(pairs), "--temperature", "0", "--max-new-tokens", "12"]
    assert keel_command([*asked, "--endpoint", f"{url}/v1", "--endpoint-model", "tiny"]) == 0
    kept = EvaluationFolder(RunFolder(run), "jailbreak")
    items = {item.id: item for item in kept.items()}
    engine = open_engine(str(folder), dtype="float32", device="cpu")
    answers = [answer for arm in kept.arms() for answer in kept.answers(arm.name)]
    for answer in answers:
        setting = answer.arm.removeprefix("capped:")
        asked = [Prompt("one", items[answer.item_id].conversation)]
        (expected,) = engine.generate(
            asked, GREEDY, seed=0, interventions=SETTINGS.get(setting, [])
        )
        # vLLM holds back a last character of which bytes are still to come.
        assert answer.text.rstrip("\ufffd") == expected.text.rstrip("\ufffd"), answer.arm
    assert {answer.arm for answer in answers} == {"none", "capped:low", f"capped:{HIGH}"}
    assert len({answer.text for answer in answers}) > len(items)  # the settings did something
