"""Which setting an HTTP request is held by, and what is refused before vLLM sees it."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from keel.alarm import Alarm
from keel.engines.vllm.deployment import KEY, OFF, ServeEnvironment
from keel.engines.vllm.front import CURRENT, SETTING_HEADER, Front, RequestSetting, settle
from keel.engines.vllm.gate import VARIABLE, FloorsChange, Gate
from keel.engines.vllm.naming import PROBE_HEADER
from keel.engines.vllm.serving import deployment_for
from keel.errors import UsageError
from keel.store import save_floors
from keel.store.alarms import write_alarm
from keel.types import Floor, Floors, ModelIdentity
from tests.engines.vllm.toys import HIDDEN, direction

FORM = "application/x-www-form-urlencoded"
LOW = Floors((Floor(2, direction(2), 1.0),), "low")
HIGH = Floors((Floor(3, direction(3), 2.0),), "high")


@pytest.fixture
def source(tmp_path, monkeypatch):
    save_floors([LOW, HIGH], tmp_path / "floors", default="high")
    monkeypatch.setenv("KEEL_FLOORS", str(tmp_path / "floors"))
    return str(tmp_path / "floors")


@pytest.fixture
def gate(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = Gate.make()
    yield made
    made.leave()


def settled(source, current, arguments=None, **environment):
    """A request's own arguments after it has been settled for an HTTP request."""
    deployment = deployment_for(ServeEnvironment(source, **environment))
    params = SimpleNamespace(extra_args=arguments)
    token = CURRENT.set(current)
    try:
        settle(params, deployment)
    finally:
        CURRENT.reset(token)
    return params.extra_args


def test_parameters_that_a_path_made_anew_get_the_setting_of_the_request(source):
    """Beam search and scoring make their own, and answered under the default."""
    current = RequestSetting("low")
    assert settled(source, current, None) == {KEY: "low"}
    assert settled(source, current, {"theirs": 1}) == {"theirs": 1, KEY: "low"}
    assert current.used == {"low"}


def test_a_request_that_names_none_is_left_alone_and_noted_under_the_default(source):
    current = RequestSetting(None)
    assert settled(source, current, None) is None
    assert current.used == {"high"}
    assert settled(source, None, None) is None  # not from HTTP at all


def test_parameters_of_another_setting_than_the_requests_are_refused(source):
    with pytest.raises(UsageError, match="'high' here and 'low' in the request"):
        settled(source, RequestSetting("low"), {KEY: "high"})


def test_a_setting_that_the_client_may_not_choose_is_refused_on_every_path(source):
    with pytest.raises(UsageError, match="may not choose"):
        settled(source, RequestSetting(OFF, frozenset({"low"})))
    with pytest.raises(UsageError, match="may not choose"):
        settled(source, RequestSetting(None, frozenset({"low"})), {KEY: OFF})
    settled(source, RequestSetting("high", frozenset({"low"})))  # the default is anybody's


class Vllm:
    """Stands in for vLLM's app: answers 200, and what it computed under."""

    def __init__(self, deployment, kind="application/json", **args):
        keel = None if deployment is None else {"keel": deployment.to_config()}
        config = SimpleNamespace(additional_config=keel)
        given = {"api_key": None, "ssl_certfile": None, "host": None, "port": 8000, "uds": None}
        given["served_model_name"] = ["m", "m:low", "m:none", "m:capped"]
        self.state = SimpleNamespace(
            vllm_config=config, args=SimpleNamespace(root_path="", **{**given, **args})
        )
        self.deployment, self.kind, self.seen, self.watched = deployment, kind, [], []

    async def __call__(self, scope, receive, send):
        body = b""
        if scope["type"] == "lifespan":
            return
        if scope["type"] == "http":
            message = await receive()
            body = message["body"]
            if scope["path"] == "/v1/models":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b'{"data": [{"id": "m"}]}'})
                return
            self.watched.append(CURRENT.get() is not None and CURRENT.get().watch is not None)
            params = SimpleNamespace(extra_args=None)
            if self.kind != "text/event-stream":
                settle(params, self.deployment)
        self.seen.append((scope["path"], body, dict(scope["headers"])))
        headers = [(b"content-type", self.kind.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


def ask(front, path, body=None, method="POST", query="", **headers):
    """(status, headers, body) of one request."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    sent = []
    scope = {
        "type": "http",
        "app": front.app,
        "path": path,
        "method": method,
        "query_string": query.encode(),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }

    async def receive():
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(front(scope, receive, send))
    replied = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], replied, json.loads(sent[1]["body"] or b"{}")


def front_of(source, monkeypatch, *, kind="application/json", **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Front(Vllm(deployment_for(ServeEnvironment.of()), kind))


def test_a_response_names_the_setting_that_its_request_was_held_by(source, monkeypatch):
    for kind in ("application/json", "text/event-stream"):
        front = front_of(source, monkeypatch, kind=kind)
        for name, held in (("low", "low"), ("none", "none"), (None, "high")):
            body = {"vllm_xargs": {KEY: name}}
            status, headers, _ = ask(front, "/v1/completions", body)
            assert (status, headers[SETTING_HEADER]) == (200, held)
            assert json.loads(front.app.seen[-1][1]) == body  # and vLLM reads all of it


@pytest.mark.parametrize("name", ["hihg", "keel-self-test", ""])
def test_an_unknown_setting_is_refused_before_vllm_sees_it(source, monkeypatch, name):
    front = front_of(source, monkeypatch)
    status, _, reply = ask(front, "/v1/completions", {"vllm_xargs": {KEY: name}})
    assert status == 400
    assert "low, high" in reply["error"]["message"]
    assert not front.app.seen


def test_only_settings_of_the_list_can_be_chosen_and_more_with_a_key(source, monkeypatch):
    monkeypatch.setenv("TRUSTED", "s3cret")
    front = front_of(source, monkeypatch, KEEL_ALLOW="low", KEEL_ALLOW_KEYS="TRUSTED:none")
    free = {"vllm_xargs": {KEY: OFF}}
    assert ask(front, "/v1/completions", {"vllm_xargs": {KEY: "low"}})[0] == 200
    assert ask(front, "/v1/completions", {})[0] == 200
    status, _, reply = ask(front, "/v1/completions", free)
    assert (status, "may not choose" in reply["error"]["message"]) == (400, True)
    assert ask(front, "/v1/completions", free, authorization="Bearer wrong")[0] == 400
    assert ask(front, "/v1/completions", free, authorization="Bearer s3cret")[0] == 200
    assert ask(front, "/v1/completions", free, authorization="Bearer schlüssel")[0] == 400


def test_a_gate_that_is_closed_keeps_health_red_and_lets_the_probe_alone_in(
    source, monkeypatch, gate
):
    front = front_of(source, monkeypatch, **{VARIABLE: str(gate.folder)})
    front.app.state.args.api_key = ["theirs"]
    assert ask(front, "/health", method="GET")[0] == 503
    assert ask(front, "/ping", method="POST")[0] == 503
    assert ask(front, "/v1/completions", {})[0] == 503
    assert ask(front, "/v1/completions", {}, x_keel_probe="guess")[0] == 503
    assert not front.app.seen
    assert ask(front, "/v1/completions", {}, **{PROBE_HEADER: gate.key})[0] == 200
    assert front.app.seen[-1][2][b"authorization"] == b"Bearer theirs"
    gate.open()
    assert ask(front, "/health", method="GET")[0] == ask(front, "/v1/completions", {})[0] == 200
    gate.close()
    assert ask(front, "/health", method="GET")[0] == 503


def test_the_probe_of_keel_serve_is_no_conversation_and_is_not_watched(
    source, monkeypatch, gate, tmp_path
):
    """Its text is far from an assistant's. Each canary was four conversations of one turn, which
    could alarm, and all there were on a server without clients."""
    identity = ModelIdentity(model_id="m", layers=6, hidden_size=HIDDEN)
    alarm = Alarm(1, direction(3), 0.0, 1.0, (1.0,), 0.3, 0.3, 1.0, identity)
    write_alarm(alarm, tmp_path / "alarm.json")
    watching = {"KEEL_ALARM": str(tmp_path / "alarm.json"), VARIABLE: str(gate.folder)}
    front = front_of(source, monkeypatch, **watching)
    gate.open()
    for headers in ({}, {PROBE_HEADER: gate.key}, {PROBE_HEADER: "guess"}):
        assert ask(front, "/v1/completions", {}, **headers)[0] == 200
    assert front.app.watched == [True, False, True]


KEEPER = '''
import os, subprocess, sys, time
from keel.engines.vllm.gate import Gate
gate = Gate.make()
gate.open()
served = """
import sys
from pathlib import Path
from keel.engines.vllm.front import Gate, _end_without_keeper
_end_without_keeper(Gate(Path(sys.argv[1])))
"""
subprocess.Popen([sys.executable, "-c", served, str(gate.folder)])
print(gate.folder, flush=True)
time.sleep(600)
'''


def test_a_server_whose_keeper_was_killed_answers_nobody_and_ends(source, monkeypatch, tmp_path):
    """`kill -9` of `keel serve` left vLLM's server behind, capped and probed by nobody."""
    command = [sys.executable, "-c", KEEPER]
    own = {**os.environ, "TMPDIR": str(tmp_path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, env=own) as keeper:
        assert keeper.stdout is not None
        folder = keeper.stdout.readline().decode().strip()
        front = front_of(source, monkeypatch, **{VARIABLE: folder})
        assert ask(front, "/health", method="GET")[0] == 200
        keeper.kill()
        # Its output ends when the served process has ended, too.
        assert b"the keel serve that watched this server is gone" in keeper.stdout.read()
    assert not Gate(Path(folder)).is_open
    for path, method in (("/health", "GET"), ("/v1/completions", "POST")):
        status, _, said = ask(front, path, {}, method=method)
        assert status == 503
        assert "is gone" in str(said)


def test_an_engine_that_keel_is_not_in_stays_red_and_answers_nobody(source, monkeypatch, gate):
    """As where VLLM_PLUGINS leaves Keel out: vLLM still puts the middleware in its place."""
    gate.open()
    monkeypatch.setenv(VARIABLE, str(gate.folder))
    front = Front(Vllm(None))
    assert ask(front, "/health", method="GET")[0] == 503
    assert ask(front, "/v1/chat/completions", {})[0] == 503
    assert not front.app.seen


def test_raw_calls_to_workers_are_refused(source, monkeypatch):
    """vLLM's developer mode has a route by which anybody could take the floors away."""
    front = front_of(source, monkeypatch)
    assert ask(front, "/collective_rpc", {"method": "keel_call"})[0] == 403


def test_the_server_says_what_holds_it(source, monkeypatch):
    front = front_of(source, monkeypatch)
    status, _, facts = ask(front, "/keel", method="GET")
    assert (status, facts["setting"], facts["settings"]) == (200, "high", ["low", "high"])
    assert facts["layers"] == [3]  # the default's alone, not those that other settings hold
    assert len(facts["floors"]) == 64


@pytest.mark.parametrize(
    ("model", "held"),
    [("m", "high"), ("m:low", "low"), ("m:none", "none"), ("m:capped", "high"), ("a:low", "high")],
)
def test_a_models_name_carries_its_setting_for_clients_that_send_nothing_else(
    source, monkeypatch, model, held
):
    front = front_of(source, monkeypatch)
    status, headers, _ = ask(front, "/v1/chat/completions", {"model": model})
    assert (status, headers[SETTING_HEADER]) == (200, held)


def test_a_models_name_against_the_requests_own_setting_is_refused(source, monkeypatch):
    front = front_of(source, monkeypatch)
    body = {"model": "m:low", "vllm_xargs": {KEY: "high"}}
    assert ask(front, "/v1/chat/completions", body)[0] == 400


def test_capped_is_the_runs_choice_where_the_server_caps_on_request_only(source, monkeypatch):
    front = front_of(source, monkeypatch, KEEL_SETTING="none")
    for model, held in (("m", "none"), ("m:capped", "high")):
        headers = ask(front, "/v1/chat/completions", {"model": model})[1]
        assert headers[SETTING_HEADER] == held


def test_a_models_name_gives_no_setting_that_the_client_may_not_have(source, monkeypatch):
    front = front_of(source, monkeypatch, KEEL_ALLOW="low")
    assert ask(front, "/v1/chat/completions", {"model": "m:none"})[0] == 400


def test_the_list_of_models_says_what_holds_each(source, monkeypatch):
    front = front_of(source, monkeypatch)
    status, headers, reply = ask(front, "/v1/models", method="GET")
    (card,) = reply["data"]
    assert (status, card["id"], card["keel"]["setting"]) == (200, "m", "high")
    assert int(headers["content-length"]) == len(json.dumps(reply))


@pytest.mark.parametrize("error", [None, "a worker on node7 holds other floors"])
def test_a_node_with_other_floors_keeps_the_server_from_answering(source, monkeypatch, error):
    """With a second node under other floors or none, 11 of 16 answers were uncapped."""
    front = front_of(source, monkeypatch)

    class Engines:
        async def call_utility_all_async(self, kind, method, timeout, args, named):
            name, expected = args
            assert (kind, method, name) == ("collective_rpc", "keel_call", "confirm")
            assert set(expected) == {"low", "high"}
            if error:
                raise RuntimeError(error)
            return [[None], [None]]

    front.app.state.engine_client = SimpleNamespace(engine_core=Engines())
    asyncio.run(front({"type": "lifespan", "app": front.app}, None, None))
    status, _, reply = ask(front, "/v1/completions", {})
    assert status == (503 if error else 200)
    if error:
        assert "node7" in reply["error"]["message"]
        assert ask(front, "/health", method="GET")[0] == 503


def test_firing_is_counted_over_all_engines(source, monkeypatch):
    """vLLM's own call gives the first engine's; a probe that went to another saw nothing move."""
    front = front_of(source, monkeypatch)

    class Engines:
        async def call_utility_all_async(self, *_):
            return [[{2: (4, 1)}, {3: (4, 0)}], [{2: (10, 5)}, {3: (10, 2)}]]

    front.app.state.engine_client = SimpleNamespace(engine_core=Engines())
    facts = ask(front, "/keel", method="GET", query="firing=high")[2]
    assert facts["firing"] == {"2": [14, 6], "3": [14, 2]}


def test_the_setting_whose_firing_is_wanted_is_named_as_addresses_carry_it(source, monkeypatch):
    """Calibrations give names like this one; no server of theirs was shown to be capped."""
    front, calls = front_of(source, monkeypatch), []

    class Engines:
        async def call_utility_all_async(self, *call):
            calls.append(call)
            return [[{2: (4, 1)}]]

    front.app.state.engine_client = SimpleNamespace(engine_core=Engines())
    ask(front, "/keel", method="GET", query="firing=layers_12%3A17-p50")
    assert "layers_12:17-p50" in str(calls)


def socket(front, *messages, query="", **headers):
    """What is sent to one who opens a socket and sends these messages, and what vLLM got of it."""
    sent, got = [], []
    waiting = [{"type": "websocket.connect"}]
    waiting += [{"type": "websocket.receive", "text": json.dumps(each)} for each in messages]
    scope = {
        **{"type": "websocket", "app": front.app, "path": "/v1/realtime"},
        "query_string": query.encode(),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        got.append(await receive())
        while waiting and got[-1]["type"] != "websocket.disconnect":
            got.append(await receive())
            params = SimpleNamespace(extra_args=None)
            settle(params, front.app.deployment)
            got[-1] = {**got[-1], "settled": params.extra_args}

    app.state, app.deployment = front.app.state, front.app.deployment
    front.app = scope["app"] = app
    asyncio.run(front(scope, receive, send))
    return sent, got


def test_a_socket_does_not_pass_a_closed_gate(source, monkeypatch, gate):
    """Every kind of connection but HTTP was let through."""
    front = front_of(source, monkeypatch, **{VARIABLE: str(gate.folder)})
    sent, got = socket(front)
    assert (sent[0]["type"], got) == ("websocket.close", [])
    assert "not open" in sent[0]["reason"]
    gate.open()
    sent, got = socket(front_of(source, monkeypatch), {"type": "session.update", "model": "m"})
    assert (sent, [message["type"] for message in got]) == (
        [],
        ["websocket.connect", "websocket.receive"],
    )


def test_a_socket_of_an_engine_without_keel_stays_shut(source, monkeypatch, gate):
    gate.open()
    monkeypatch.setenv(VARIABLE, str(gate.folder))
    sent, got = socket(Front(Vllm(None)))
    assert (sent[0]["type"], got) == ("websocket.close", [])


@pytest.mark.parametrize(
    "message",
    [{"vllm_xargs": {KEY: "low"}}, {"session": {"Keel": "low"}}, {"model": "m:low"}],
    ids=["arguments", "misspelt", "model"],
)
def test_a_setting_that_a_socket_would_ignore_ends_it(source, monkeypatch, message):
    sent, got = socket(front_of(source, monkeypatch), message)
    assert sent[0]["type"] == "websocket.close"
    assert "ignored" in sent[0]["reason"]
    assert got[-1]["type"] == "websocket.disconnect"


def multipart(**fields):
    lines = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    file = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return "".join([*lines, file, "RIFF\x00\xff\r\n--x--\r\n"]).encode("latin-1")


MULTIPART = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("raw", "kind", "expected"),
    [
        (multipart(model="m", vllm_xargs='{"keel": "low"}'), MULTIPART, "low"),
        (multipart(model="m:low"), MULTIPART, "low"),
        (multipart(model="m", **{"vllm_xargs[keel]": "low"}), MULTIPART, "low"),
        (b"model=m&vllm_xargs=%7B%22keel%22%3A%22low%22%7D", FORM, "low"),
        (multipart(model="m", language="keel"), MULTIPART, "high"),
        (multipart(model="m", keel="low"), MULTIPART, None),
        (multipart(model="m", keel_setting="low"), MULTIPART, None),
        (multipart(vllm_xargs='{"Keel": "low"}'), MULTIPART, None),
        (b"model=m&keel=low", FORM, None),
    ],
)
def test_a_setting_in_a_form_is_honoured_or_refused(source, monkeypatch, raw, kind, expected):
    """Endpoints for audio take forms: a name in them was not read, and vLLM ignores what it does
    not know."""
    status, headers, _ = ask(
        front_of(source, monkeypatch), "/v1/audio/transcriptions", raw, content_type=kind
    )
    assert (status, headers.get(SETTING_HEADER)) == (200 if expected else 400, expected)


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("keel=low", {}),
        ("vllm_xargs%5Bkeel%5D=low", {}),
        ("", {"x_keel_setting": "low"}),
        ("", {"keel": "low"}),
    ],
)
def test_a_setting_in_the_address_or_a_header_is_refused(source, monkeypatch, query, headers):
    """It was answered under the default."""
    front = front_of(source, monkeypatch)
    status, _, reply = ask(front, "/v1/completions", {"model": "m"}, query=query, **headers)
    assert (status, "would be ignored" in reply["error"]["message"]) == (400, True)


def test_new_floors_hold_what_comes_after_them_and_old_ones_what_came_before(
    source, monkeypatch, gate, tmp_path
):
    gate.open()
    front = front_of(source, monkeypatch, **{VARIABLE: str(gate.folder)})
    before = RequestSetting("low", live=front._live())
    save_floors([LOW, replace(HIGH, name="other")], tmp_path / "new", default="other")
    gate.propose(FloorsChange(1, str(tmp_path / "new"), None))
    assert ask(front, "/v1/completions", {})[1][SETTING_HEADER] == "high"  # not yet
    assert gate.go_over()
    status, headers, _ = ask(front, "/v1/completions", {})
    assert (status, headers[SETTING_HEADER]) == (200, "other")
    after = RequestSetting(None, live=front._live())
    assert settled(source, before) == {KEY: "low"}
    assert settled(source, after) == {KEY: "other\x1f1"}
    assert settled(source, after, {KEY: "other\x1f1"}) == {KEY: "other\x1f1"}  # of beams, twice
    assert settled(source, after, {KEY: "low"}) == {KEY: "low\x1f1"}
    with pytest.raises(UsageError, match="'high', expected none or one of low, other"):
        settled(source, after, {KEY: "high"})
    assert ask(front, "/v1/completions", {"vllm_xargs": {KEY: "other\x1f1"}})[0] == 400
    assert ask(front, "/keel", method="GET")[2]["changes"] == 1


@pytest.mark.parametrize(
    ("variable", "key", "status"), [("ADMIN", "guess", 401), ("ADMIN", "", 401), (None, "k", 403)]
)
def test_floors_are_changed_by_nobody_without_the_administrators_key(
    source, monkeypatch, gate, variable, key, status
):
    gate.open()
    monkeypatch.setenv("ADMIN", "s3cret")
    environment = {VARIABLE: str(gate.folder)}
    environment |= {} if variable is None else {"KEEL_ADMIN_KEY_ENV": variable}
    front = front_of(source, monkeypatch, **environment)
    body = {"floors": source}
    said = ask(front, "/keel/floors", body, authorization=f"Bearer {key}")
    assert (said[0], gate.candidate) == (status, None)
