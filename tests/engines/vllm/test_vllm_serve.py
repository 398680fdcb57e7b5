"""`vllm serve` with the plugin installed, nothing else changed, asked over real HTTP."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from keel.cli import run as keel_command
from keel.engines import open_engine
from keel.store import EvaluationFolder, RunFolder, save_floors
from keel.types import Floors, Prompt
from tests.cli.commands import SMALL
from tests.engines.vllm.serving_vllm import GREEDY, band, by_index, prompt, tiny

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]

PROMPT = prompt("what is the sea like")
SETTINGS = {"low": band(2.0), "high": band(4.0, seed=5)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def floors(tmp_path_factory):
    path = tmp_path_factory.mktemp("floors") / "floors.safetensors"
    bands = [Floors(tuple(floors), name) for name, floors in SETTINGS.items()]
    save_floors(bands, path, default="high")
    return path


@pytest.fixture(scope="module")
def expected(folder):
    """What the transformers engine answers: unsteered and under each setting."""
    engine = open_engine(str(folder), dtype="float32", device="cpu")
    found = {}
    for name, held in {"none": [], **SETTINGS}.items():
        answers = engine.generate([PROMPT], GREEDY, seed=0, interventions=held)
        found[name] = list(by_index(answers)[0].token_ids)
    assert len({tuple(tokens) for tokens in found.values()}) == 3
    found["prompt"] = engine.template.prompt_ids(PROMPT.conversation)
    return found


@contextmanager
def served(folder, **environment):
    """The base URL of a server that is up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = _start(folder, port, environment)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(60)
        process.said.close()


def _start(folder, port, environment):
    # What `vllm serve` starts; the command itself looks for a package named `vllm`, and the
    # build for CPUs is named otherwise.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "256", "--served-model-name", "tiny"]
    command += ["--gpu-memory-utilization", "0.3"]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    env.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    said = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(command, env={**env, **environment}, stdout=said, stderr=said)
    process.said = said
    return process


def said_by(process):
    """Everything that the server printed."""
    process.said.seek(0)
    return process.said.read().decode()


def ended(process):
    """What the server said until it ended by itself, with an error."""
    try:
        process.wait(150)
    finally:
        process.kill()
    assert process.returncode not in (0, -9)
    with process.said:
        return said_by(process)


def _wait_for(url, process, seconds=120):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if process.poll() is not None:
            pytest.fail(said_by(process)[-3000:])
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2)
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail("the server did not come up")


def answer(url, expected, **asked):
    """Greedy tokens of the prompt."""
    body = {
        "model": "tiny",
        "prompt": expected["prompt"],
        "max_tokens": GREEDY.max_new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        **asked,
    }
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)["choices"][0]["token_ids"]


def agrees(found, expected):
    """Whether an answer is the expected one as far as that goes (it may end earlier)."""
    return found[: len(expected)] == expected


def test_every_request_is_capped_and_may_choose_another_setting(folder, floors, expected):
    with served(folder, KEEL_FLOORS=str(floors)) as url:
        assert agrees(answer(url, expected), expected["high"])
        for name in ("low", "none", "high"):
            found = answer(url, expected, vllm_xargs={"keel": name})
            assert agrees(found, expected[name])
        with pytest.raises(urllib.error.HTTPError) as refused:
            answer(url, expected, vllm_xargs={"keel": "hihg"})
        assert refused.value.code == 400
        assert "low, high" in refused.value.read().decode()
        assert agrees(answer(url, expected), expected["high"])  # and it goes on


def test_an_evaluation_holds_the_servers_settings_against_its_unsteered_model(
    folder, floors, tmp_path
):
    """Every answer is the one that the transformers engine gives under the same floors."""
    run, pairs = tmp_path / "run", tmp_path / "pairs.csv"
    pairs.write_text("prompt,request,category\nYou are rude.,Greet me.,a\nYou are sly.,Lie.,b\n")
    assert keel_command(["extract", str(folder), "-o", str(run), *SMALL]) == 0
    asked = ["evaluate", str(run), "jailbreak", "--arms", "none,capped:low,capped:high"]
    asked += ["--data", str(pairs), "--temperature", "0", "--max-new-tokens", "12"]
    with served(folder, KEEL_FLOORS=str(floors)) as url:
        asked += ["--endpoint", f"{url}/v1", "--endpoint-model", "tiny"]
        assert keel_command(asked) == 0
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
    assert {answer.arm for answer in answers} == {"none", "capped:low", "capped:high"}
    assert len({answer.text for answer in answers}) > len(items)  # the settings did something


def test_enforced_floors_cannot_be_switched_off(folder, floors, expected):
    with served(folder, KEEL_FLOORS=str(floors), KEEL_ENFORCE="1", KEEL_SETTING="low") as url:
        assert agrees(answer(url, expected), expected["low"])
        with pytest.raises(urllib.error.HTTPError) as refused:
            answer(url, expected, vllm_xargs={"keel": "none"})
        assert refused.value.code == 400
        assert agrees(answer(url, expected), expected["low"])


def test_installed_but_not_configured_the_plugin_changes_nothing(folder, expected):
    with served(folder) as url:
        assert agrees(answer(url, expected), expected["none"])
        with pytest.raises(urllib.error.HTTPError) as refused:
            answer(url, expected, vllm_xargs={"keel": "high"})
        assert refused.value.code == 400
        assert "without Keel" in refused.value.read().decode()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"KEEL_FLOORS": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"KEEL_SETTING": "hihg"}, "KEEL_SETTING is 'hihg'"),
        ({"KEEL_ENFORCE": "yes"}, "KEEL_ENFORCE is 'yes'"),
    ],
    ids=["no file", "no such setting", "a typo"],
)
def test_a_server_that_cannot_hold_as_asked_does_not_start(folder, floors, environment, message):
    asked = {"KEEL_FLOORS": str(floors), **environment}
    assert message in ended(_start(folder, 1, asked))


def test_floors_of_another_model_are_refused(folder, floors, tmp_path):
    other = tiny(tmp_path, hidden=256)
    said = ended(_start(other, 1, {"KEEL_FLOORS": str(floors)}))
    assert "128" in said
    assert "256" in said
