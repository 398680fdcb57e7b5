"""What `keel serve` refuses before it starts vLLM, what it starts, and when it opens it.

Here vLLM's server is a small one of ours, started as the real one is.
"""

import signal
import sys
from dataclasses import replace

import pytest

from keel.cli import run as keel_command
from keel.engines.vllm import Gate
from keel.errors import (
    EngineDiedError,
    MissingExtraError,
    ModelMismatchError,
    NotAppliedError,
    UsageError,
)
from keel.serve import ServerPlan, plan_server, run_server, vllm_server
from keel.settings import ServeSettings
from keel.store import save_floors
from keel.testing import save_tiny_model
from keel.types import Floor, Floors, ModelIdentity
from tests.engines.vllm.toys import HIDDEN, direction


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture
def run(tmp_path, model, monkeypatch):
    """Floors of that model; vLLM is taken to be there."""
    monkeypatch.setattr(vllm_server, "check_version", lambda: None)
    from keel.engines.catalogue import weights_fingerprint

    made = ModelIdentity(str(model), 4, HIDDEN, weights_hash=weights_fingerprint(model))
    floors = Floors((Floor(1, direction(1), 1.0), Floor(2, direction(2), 1.0)), "high", made)
    save_floors([floors, replace(floors, name="low")], tmp_path / "floors", default="high")
    return tmp_path / "floors"


def test_the_server_is_vllms_own_with_the_floors_in_place(run, model):
    plan = plan_server(run, ServeSettings(setting="low", is_enforced=True), ["--port", "9"], {})
    assert plan.command[-2:] == ("--port", "9")
    assert str(model) in plan.command
    middleware = plan.command.index("--middleware")
    assert plan.command[middleware + 1] == "keel.engines.vllm.front.Front"
    assert plan.environment["KEEL_FLOORS"] == str(run)
    assert (plan.environment["KEEL_SETTING"], plan.environment["KEEL_ENFORCE"]) == ("low", "1")


def test_a_list_of_plugins_without_keel_gets_it(run):
    """vLLM served uncapped then, without a word."""
    plan = plan_server(run, ServeSettings(), [], {"VLLM_PLUGINS": "theirs"})
    assert plan.environment["VLLM_PLUGINS"] == "theirs,keel"
    assert "left Keel out" in plan.notes[0]


@pytest.mark.parametrize(
    ("settings", "arguments", "environment", "message"),
    [
        ({"setting": "lwo"}, (), {}, "KEEL_SETTING is 'lwo'"),
        ({"allowed": ("lwo",)}, (), {}, "no setting 'lwo'"),
        ({"setting": "none", "is_enforced": True}, (), {}, "holds nothing"),
        ({"key_grants": ("NO_KEY:none",)}, (), {}, "NO_KEY, which holds no key"),
        ({}, ("--grpc",), {}, "--grpc"),
        ({}, ("--headless",), {}, "--headless"),
        ({}, ("--runner", "pooling"), {}, "pooling"),
        ({}, ("--runner=pooling",), {}, "pooling"),
        ({}, ("--additional_config={}",), {}, "--additional-config"),
        ({}, (), {"VLLM_USE_RUST_FRONTEND": "1"}, "RUST"),
        ({}, (), {"KEEL_FLOOR": "run"}, "KEEL_FLOOR is no variable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_held_is_refused_before_anything_starts(
    run, settings, arguments, environment, message
):
    with pytest.raises(UsageError, match=message):
        plan_server(run, ServeSettings(**settings), arguments, environment)


def test_other_weights_are_refused_unless_they_are_accepted(run, tmp_path):
    other = save_tiny_model(tmp_path / "other", "llama", seed=1)
    with pytest.raises(ModelMismatchError, match="other weights"):
        plan_server(run, ServeSettings(model=str(other)), [], {})
    plan = plan_server(run, ServeSettings(model=str(other), accepts_other_weights=True), [], {})
    assert str(other) in plan.command


def test_a_keel_that_vllm_would_not_see_is_refused(run, monkeypatch):
    monkeypatch.setattr(vllm_server.importlib.metadata, "entry_points", lambda group: ())
    with pytest.raises(MissingExtraError, match=r"would not see Keel.*pip install keel-llm"):
        plan_server(run, ServeSettings(), [], {})


def test_without_vllm_the_command_says_how_to_have_it(run, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.setattr("keel.engines.vllm.serving.vllm_version", lambda: "")
    assert keel_command(["serve", str(run)]) == 3
    assert "vLLM is not installed; on a GPU: pip install" in capsys.readouterr().err


SERVER = """
import json, os, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from keel.engines.vllm.gate import Gate, ServerAddress

gate, fault = Gate.of(os.environ), sys.argv[1]
if fault == "refuses":
    gate.refuse("layer 99 is not there")
    sys.exit(3)
if fault == "dies":
    sys.exit(7)
seen = {"high": 0}

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def reply(self, status, value, **headers):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        is_in = gate.is_open or self.headers.get("x-keel-probe") == gate.key
        facts = {"setting": "high", "settings": ["high"], "enforced": False, "layers": [1, 2]}
        if "firing=" in self.path:
            facts["firing"] = {"1": [seen["high"], seen["high"]]}
        if self.path == "/v1/models":
            self.reply(200, {"data": [{"id": "m"}]})
        elif self.path == "/health":
            self.reply(200 if is_in else 503, {})
        else:
            self.reply(200, facts)
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name = body.get("vllm_xargs", {}).get("keel", "high")
        if fault == "lost under a probe" and gate.is_open:
            gate.refuse("no layer saw a token")
            self.reply(500, {"error": {"message": "EngineCore encountered an issue"}})
            return
        if name not in ("high", "none"):
            self.reply(400, {"error": {"message": "no"}})
            return
        if name == "high":
            seen["high"] += 5
        is_held = name == "high" and fault != "uncapped"
        is_held = is_held and not (fault == "later" and gate.is_open)
        logprobs = {"token_logprobs": [-2.0 if is_held else -1.0]}
        self.reply(200, {"choices": [{"logprobs": logprobs}]}, x_keel_setting=name)
        if fault.startswith("lost") and name == "none" and seen["high"] > 20:
            gate.refuse("no layer saw a token")
            if fault == "lost":
                os._exit(0)
        if fault == "ends" and name == "none" and seen["high"] > 20:
            os._exit(0)
        if fault == "closes" and name == "none" and seen["high"] > 20:
            threading.Thread(target=server.shutdown).start()

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
gate.announce(ServerAddress(f"http://127.0.0.1:{server.server_port}"))
if fault == "peaceful":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server.serve_forever()
server.server_close()
time.sleep(600)  # as one that waits for an answer which will not come
"""


def serving(fault, canary_s=0.0):
    """What `on_open` was called with, for a server with that fault."""
    opened = []
    plan = ServerPlan((sys.executable, "-c", SERVER, fault), {**vllm_server.os.environ}, ())
    run_server(plan, canary_s=canary_s, on_open=opened.append)
    return opened


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("refuses", NotAppliedError, "^layer 99 is not there$"),
        ("dies", EngineDiedError, "status 7 before it was up"),
        ("uncapped", NotAppliedError, "predicts the same"),
    ],
)
def test_a_server_that_was_not_shown_to_be_capped_is_never_opened(
    fault, error, message, monkeypatch
):
    monkeypatch.setattr(Gate, "open", lambda self: pytest.fail("it was opened"))
    with pytest.raises(error, match=message):
        serving(fault)


def test_a_server_that_loses_its_cap_is_closed_and_ended(monkeypatch):
    closed = []
    monkeypatch.setattr(Gate, "close", lambda gate: closed.append(gate))
    with pytest.raises(NotAppliedError, match="predicts the same"):
        serving("later", canary_s=0.1)
    assert closed


def test_a_server_that_ends_when_it_should_ends_the_command(monkeypatch):
    """vLLM's ends with 0 on SIGTERM, which is passed on to it."""
    opened = []

    def open_and_end(gate):
        opened.append(gate)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Gate, "open", open_and_end)
    (result,) = serving("peaceful")
    assert result.setting == "high"
    assert len(opened) == 1


def test_a_server_that_ends_by_itself_is_an_error_though_its_status_is_0():
    """vLLM's server ends with 0 when its engine has died: a supervisor took that for peace."""
    with pytest.raises(EngineDiedError, match="ended by itself with status 0"):
        serving("ends", canary_s=0.1)


@pytest.mark.parametrize("fault", ["lost", "lost and stays", "lost under a probe"])
def test_why_the_engine_ended_is_what_the_command_says(fault):
    """vLLM's HTTP server once stayed for an hour behind its dead engine, and so did the command."""
    with pytest.raises(NotAppliedError, match="^no layer saw a token$"):
        serving(fault, canary_s=0.1)


def test_a_server_that_stays_behind_its_closed_port_ends_the_command(monkeypatch):
    """A request that its dead engine could not answer kept vLLM's server for ever."""
    monkeypatch.setattr(vllm_server, "_END_S", 0.5)
    with pytest.raises(EngineDiedError, match="takes no connections any more"):
        serving("closes", canary_s=0.1)
