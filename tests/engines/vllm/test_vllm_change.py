"""Floors that are changed while a real server runs, under requests that are being answered."""

from __future__ import annotations

import importlib.util
import json
import threading
import urllib.request

import pytest

from keel.alarm import Alarm
from keel.cli import run as keel_command
from keel.engines import open_engine
from keel.store import save_floors
from keel.store.alarms import write_alarm
from keel.types import Floors, ModelIdentity, Sampling
from tests.engines.vllm.http_servers import (
    free_port,
    get,
    post,
    running_server,
    said_by,
    start_keel,
)
from tests.engines.vllm.serving_vllm import HIDDEN, LAYERS, band, by_index, prompt, tiny
from tests.engines.vllm.toys import direction

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]

PROMPT = prompt("what is the sea like")
BEFORE = {"low": band(2.0), "high": band(4.0, seed=5)}
AFTER = {"low": band(5.0, seed=8), "steep": band(6.0, seed=9)}
ALARM = Alarm(
    layer=0,
    direction=direction(3, HIDDEN),
    zero=0.0,
    gap=1.0,
    expected=(0.0,),
    between=0.3,
    within=0.3,
    token=1.0,
    identity=ModelIdentity(model_id="tiny", layers=LAYERS, hidden_size=HIDDEN),
)
KEY = {"authorization": "Bearer s3cret"}
LONG = 160


def save(path, settings, default):
    save_floors([Floors(tuple(f), n) for n, f in settings.items()], path, default=default)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def expected(folder):
    """What the transformers engine answers under floors of before and after the change."""
    engine = open_engine(str(folder), dtype="float32", device="cpu")
    sampling = Sampling(max_new_tokens=LONG, temperature=0)

    def answered(held):
        return list(
            by_index(engine.generate([PROMPT], sampling, seed=0, interventions=held))[0].token_ids
        )

    before, after = (
        {name: answered(held) for name, held in settings.items()} for settings in (BEFORE, AFTER)
    )
    assert len({tuple(tokens[:12]) for tokens in [*before.values(), *after.values()]}) == 4
    return {
        "before": before,
        "after": after,
        "prompt": engine.template.prompt_ids(PROMPT.conversation),
    }


@pytest.fixture
def server(folder, tmp_path):
    """(URL, process) of a server whose floors can change."""
    floors = save(tmp_path / "before", BEFORE, "high")
    write_alarm(ALARM, tmp_path / "alarm.json")
    options = ("--model", str(folder), "--admin-key-env", "ADMIN")
    options += ("--alarm", str(tmp_path / "alarm.json"), "--alarm-action", "setting:low")
    process = start_keel(floors, port := free_port(), {"ADMIN": "s3cret"}, *options)
    with running_server(process, port) as url:
        yield url, process


def asked(expected, tokens=12, **more):
    return {
        **{"model": "tiny", "prompt": expected["prompt"], "max_tokens": tokens},
        **{"temperature": 0, "ignore_eos": True, "return_token_ids": True, **more},
    }


def answer(url, expected, name=None, tokens=12):
    named = {} if name is None else {"vllm_xargs": {"keel": name}}
    status, headers, reply = post(url, "/v1/completions", asked(expected, tokens, **named))
    assert status == 200, reply
    return headers["x-keel-setting"], reply["choices"][0]["token_ids"]


def agrees(tokens, expected):
    """Whether an answer is the expected one as far as both go (a model's may end earlier)."""
    shorter = min(len(tokens), len(expected))
    return shorter >= 8 and tokens[:shorter] == expected[:shorter]


def streamed(url, body, tokens, started):
    """Collects the tokens of a stream."""
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps({**body, "stream": True}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        for line in reply:
            if line.startswith(b"data: {"):
                (choice,) = json.loads(line[6:])["choices"]
                tokens += choice["token_ids"] or []
                started.set()


def test_floors_change_under_running_requests_which_keep_theirs(server, expected, tmp_path, capsys):
    """Other floors needed a restart. The same prompt is asked before and after under settings of
    one name: keys that were cached under the old floors must serve none of the new."""
    url, process = server
    assert agrees(answer(url, expected, "low")[1], expected["before"]["low"])
    fingerprint = get(url, "/keel")["floors"]
    running, started = [], threading.Event()
    body = asked(expected, LONG, vllm_xargs={"keel": "low"})
    thread = threading.Thread(target=streamed, args=(url, body, running, started))
    thread.start()
    started.wait(60)
    path = save(tmp_path / "after", AFTER, "steep")
    status, _, facts = post(url, "/keel/floors", {"floors": path}, **KEY)
    assert status == 200, facts
    assert (facts["setting"], facts["settings"], facts["changes"]) == ("steep", ["low", "steep"], 1)
    held, tokens = answer(url, expected)
    assert held == "steep"
    assert agrees(tokens, expected["after"]["steep"])
    assert agrees(answer(url, expected, "low")[1], expected["after"]["low"])
    _, _, reply = post(url, "/v1/completions", asked(expected))
    assert reply["choices"][0]["keel"]["setting"] == "steep"
    assert reply["choices"][0]["keel"]["state"] != "unknown"
    assert facts["watching"]["layer"] == 0
    thread.join(60)
    assert len(running) == LONG
    assert agrees(running, expected["before"]["low"])
    assert get(url, "/keel")["floors"] == facts["floors"] != fingerprint
    assert get(url, "/v1/models")["data"][0]["keel"]["floors"] == facts["floors"]
    status, _, reply = post(url, "/v1/completions", asked(expected, vllm_xargs={"keel": "high"}))
    assert (status, "low, steep" in reply["error"]["message"]) == (400, True)
    assert keel_command(["check", url]) == 0
    assert facts["floors"][:12] in capsys.readouterr().out
    assert f"floors changed, from {fingerprint[:12]}: requests are held by steep" in said_by(
        process
    )


def test_a_change_that_cannot_be_changes_nothing(server, expected, tmp_path):
    url, process = server
    wide = [*band(4.0), *band(4.0, layers=range(3, 4))]
    # With a setting for the alarm's action, which floors without are refused for.
    flat = save(tmp_path / "flat", {"flat": band(-1e6), "low": band(2.0)}, "flat")
    lone = save(tmp_path / "lone", {"flat": band(4.0)}, "flat")
    lowest = save(tmp_path / "lowest", {"low": band(4.0, layers=range(3))}, "low")
    for body, key, status, message in (
        ({"floors": flat}, {}, 401, "administrator's key"),
        ({"floors": flat}, {"authorization": "Bearer guess"}, 401, "administrator's key"),
        ({"floors": "/nowhere/at/all"}, KEY, 400, "/nowhere/at/all"),
        ({"floor": flat}, KEY, 400, "the body has floor"),
        (
            *({"floors": flat, "setting": "falt"}, KEY, 400),
            f"setting is 'falt', but {flat} holds flat, low",
        ),
        ({"floors": save(tmp_path / "wide", {"w": wide}, "w")}, KEY, 400, "acts at layers [3]"),
        ({"floors": lowest}, KEY, 400, "acts at layers [0]"),
        ({"floors": lone}, KEY, 400, "KEEL_ALARM_ACTION is 'setting:low'"),
        ({"floors": flat}, KEY, 409, "moved none of"),  # what the probe says
    ):
        said = post(url, "/keel/floors", body, **key)
        assert (said[0], message in said[2]["error"]["message"]) == (status, True), said
        assert "keel-gate" not in str(said[2])  # the server's own copy of the floors
    facts = get(url, "/keel")
    assert (facts["setting"], facts["changes"]) == ("high", 0)
    held, tokens = answer(url, expected)
    assert held == "high"
    assert agrees(tokens, expected["before"]["high"])
    assert "the floors stay as they are: setting 'w' acts at layers [3]" in said_by(process)
    # And after all that there is room for a good one, twice.
    for number in (1, 2, 3, 4):
        path = save(tmp_path / f"good{number}", AFTER, "steep")
        status, _, facts = post(url, "/keel/floors", {"floors": path}, **KEY)
        assert (status, facts.get("changes")) == (200, number), facts
