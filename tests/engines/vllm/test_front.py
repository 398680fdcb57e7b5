"""Which setting an HTTP request is held by, and what is refused before vLLM sees it."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from keel.engines.vllm.deployment import KEY, OFF, ServeEnvironment
from keel.engines.vllm.front import (
    CURRENT,
    PROBE_HEADER,
    SETTING_HEADER,
    Front,
    RequestSetting,
    named_setting,
    settle,
)
from keel.engines.vllm.gate import VARIABLE, Gate
from keel.engines.vllm.serving import deployment_for
from keel.errors import UsageError
from keel.store import save_floors
from keel.types import Floor, Floors
from tests.engines.vllm.toys import direction

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
    return Gate.make()


@pytest.mark.parametrize(
    "body",
    [
        {"vllm_xargs": {KEY: "low"}},
        {"sampling_params": {"extra_args": {KEY: "low"}}},
        {"vllm_xargs": {KEY: "low"}, "sampling_params": {"extra_args": {KEY: "low"}}},
        {"vllm_xargs": {KEY: "low", "other": 1}, "messages": [{"content": "keel"}]},
    ],
)
def test_a_setting_is_named_where_vllm_hands_it_on(body):
    assert named_setting(body) == "low"


@pytest.mark.parametrize(
    "body",
    [
        *(
            {},
            {"vllm_xargs": {}},
            {"vllm_xargs": {KEY: None}},
            {"vllm_xargs": None},
            None,
            [],
            "keel",
        ),
        {"messages": [{"role": "user", "content": "x", KEY: "low"}]},
        {"tools": [{"function": {"parameters": {"properties": {"keel": {}}}}}]},
        {"response_format": {"json_schema": {"properties": {"keel": {"type": "string"}}}}},
        {"structured_outputs": {"json": {"properties": {"keel": {}}}}},
        {"metadata": {"vessel": "low", "kelvin": 3, "knee": 1}},
    ],
)
def test_other_bodies_name_none(body):
    assert named_setting(body) is None


@pytest.mark.parametrize(
    "body",
    [
        {KEY: "low"},
        {"Keel": "low"},
        {"vllm_xargs": {"Keel": "low"}},
        {"vllm_xargs": {"KEEL": "low"}},
        {"vllm_xargs": {"keel_setting": "low"}},
        {"vllm_xargs": {"keel-floors": "low"}},
        {"vllm_xargs": {"kel": "low"}},
        {"vllm_xargs": {"kele": "low"}},
        {"extra_body": {"vllm_xargs": {KEY: "low"}}},
        {"extra_args": {KEY: "low"}},
        {"vllm_xarg": {KEY: "low"}},
        {"sampling_params": {"vllm_xargs": {KEY: "low"}}},
        {"sampling_params": {KEY: "low"}},
        {"metadata": {KEY: "low"}},
        {"chat_template_kwargs": {KEY: "low"}},
    ],
)
def test_a_name_that_vllm_would_ignore_is_refused_with_where_it_belongs(body):
    """Each was answered under the default, with status 200."""
    with pytest.raises(UsageError, match=r'would be ignored.*"vllm_xargs": {"keel": "..."}'):
        named_setting(body)


def test_two_names_that_differ_are_refused():
    with pytest.raises(UsageError, match=r"names 2 settings, \['high', 'low'\]"):
        named_setting(
            {"vllm_xargs": {KEY: "low"}, "sampling_params": {"extra_args": {KEY: "high"}}}
        )


@pytest.mark.parametrize("name", [3, ["low"], True, {"a": 1}])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(UsageError, match="expected the name of a setting"):
        named_setting({"vllm_xargs": {KEY: name}})


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
        self.deployment, self.kind, self.seen = deployment, kind, []

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
            params = SimpleNamespace(extra_args=None)
            if self.kind != "text/event-stream":
                settle(params, self.deployment)
        self.seen.append((scope["path"], body, dict(scope["headers"])))
        headers = [(b"content-type", self.kind.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


def ask(front, path, body=None, method="POST", query="", **headers):
    """(status, headers, body) of one request."""
    sent, raw = [], b"" if body is None else json.dumps(body).encode()
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
    assert facts["layers"] == [2, 3]
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
