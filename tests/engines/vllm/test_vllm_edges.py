"""Servers at the edges: several engines, a second node, caches outside, and a cap that is lost."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from keel.store import save_floors
from keel.types import Floors
from tests.engines.vllm.http_servers import (
    free_port,
    get,
    keel_served,
    post,
    said_by,
    start,
    start_headless,
    start_keel,
    wait_for,
)
from tests.engines.vllm.serving_vllm import band, tiny

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]

KEY = {"authorization": "Bearer s3cret"}
PROMPT = {"model": "tiny", "prompt": "what is the sea like", "max_tokens": 6, "temperature": 0}


def save(path, settings, default):
    save_floors([Floors(tuple(f), n) for n, f in settings.items()], path, default=default)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def floors(tmp_path_factory):
    path = tmp_path_factory.mktemp("floors") / "floors"
    return save(path, {"low": band(2.0), "high": band(4.0, seed=5)}, "high")


def answer(url, name):
    status, headers, reply = post(url, "/v1/completions", {**PROMPT, "vllm_xargs": {"keel": name}})
    assert status == 200, reply
    assert headers["x-keel-setting"] == name
    return reply["choices"][0]["text"]


def test_every_engine_of_data_parallel_ones_holds_and_changes_floors(folder, floors, tmp_path):
    """Requests go to either in turn: each setting must give one answer, before and after."""
    options = ("--model", str(folder), "--admin-key-env", "ADMIN")
    parallel = ("--data-parallel-size", "2")
    with keel_served(floors, *options, arguments=parallel, ADMIN="s3cret") as url:
        before = {name: {answer(url, name) for _ in range(6)} for name in ("low", "high", "none")}
        assert [len(texts) for texts in before.values()] == [1, 1, 1]
        assert len(set.union(*before.values())) == 3
        after = save(tmp_path / "after", {"low": band(6.0, seed=9)}, "low")
        status, _, facts = post(url, "/keel/floors", {"floors": after}, **KEY)
        assert (status, facts.get("changes")) == (200, 1), facts
        texts = {answer(url, "low") for _ in range(6)}
        assert len(texts) == 1
        assert texts != before["low"]


@pytest.mark.parametrize("others", [{"low": band(1.0)}, None], ids=["other floors", "no floors"])
def test_a_node_with_other_floors_keeps_the_first_from_answering(folder, floors, others, tmp_path):
    """11 of 16 requests were uncapped."""
    rpc = str(free_port())
    shared = ("--data-parallel-size", "2", "--data-parallel-size-local", "1")
    shared += ("--data-parallel-address", "127.0.0.1", "--data-parallel-rpc-port", rpc)
    theirs = {} if others is None else {"KEEL_FLOORS": save(tmp_path / "other", others, "low")}
    port = free_port()
    second = start_headless(folder, theirs, *shared, "--data-parallel-start-rank", "1")
    first = start(folder, port, {"KEEL_FLOORS": floors}, *shared)
    try:
        status, reason = refusal(f"http://127.0.0.1:{port}", first, second)
        assert status == 503
        assert os.uname().nodename in reason
    finally:
        for process in (first, second):
            process.terminate()
        for process in (first, second):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()  # a node whose first is gone waits for it
            process.wait()
            process.said.close()


def refusal(url, *nodes):
    """Status and reason of a server's health, once it answers at all."""
    for _ in range(1000):
        for node in nodes:
            if node.poll() is not None:
                pytest.fail(said_by(node)[-3000:])
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2)
            pytest.fail("it is green")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["error"]["message"]
        except OSError:
            time.sleep(0.5)
    pytest.fail("the server did not come up: " + said_by(nodes[0])[-3000:])


LOSES_ITS_CAP = """
import os, threading, time

def lose():
    while not os.path.exists(os.environ["LOSE_IT"]):
        time.sleep(0.1)
    from keel.engines.vllm.layers import SteeredLayer
    SteeredLayer.forward = lambda self, output: output

threading.Thread(target=lose, daemon=True).start()
"""


def test_a_cap_that_is_lost_while_nobody_asks_is_noticed(folder, floors, tmp_path):
    """The canary ran between steps only: the first user met it."""
    (tmp_path / "sitecustomize.py").write_text(LOSES_ITS_CAP)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": path, "LOSE_IT": str(tmp_path / "now")}
    options = ("--model", str(folder), "--canary-minutes", "0.05")
    process = start_keel(floors, port := free_port(), environment, *options)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, said_by(process)[-3000:]
            try:
                facts = get(url, "/keel")
                urllib.request.urlopen(f"{url}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        assert facts["canary_minutes"] == 0.05
        (tmp_path / "now").touch()
        assert process.wait(400) == 3
        *_, reason = [line for line in said_by(process).splitlines() if line.startswith("keel: ")]
        assert any(words in reason for words in ("self-test", "no layer saw a token", "past Keel"))
        with pytest.raises(OSError):
            urllib.request.urlopen(f"{url}/health", timeout=2)
    finally:
        process.kill()
        process.wait(60)
        process.said.close()


@pytest.mark.parametrize(("count", "processes"), [("1", 0), ("2", 2)])
def test_a_server_whose_engine_is_killed_under_a_call_ends_and_says_so(
    folder, floors, count, processes
):
    """The call was never answered, so vLLM's server stayed, and `keel serve` behind it.

    On a CPU `keel serve` started one HTTP process, whatever count was given.
    """
    arguments = ("--api-server-count", count)
    options = ("--model", str(folder))
    process = start_keel(floors, port := free_port(), {}, *options, arguments=arguments)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process)
        children = psutil.Process(process.pid).children(recursive=True)
        titles = {each: " ".join(each.cmdline()) for each in children}
        assert sum("APIServer" in title for title in titles.values()) == processes
        (engine,) = [each for each, title in titles.items() if "EngineCore" in title]
        engine.suspend()
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(get, url, "/keel?firing=high")
            time.sleep(2)
            assert not call.done()
            engine.kill()
            assert process.wait(100) == 3
            with pytest.raises((OSError, http.client.HTTPException)):
                call.result(30)
        assert "ended by itself" in said_by(process)
    finally:
        process.kill()
        process.wait(60)
        process.said.close()
