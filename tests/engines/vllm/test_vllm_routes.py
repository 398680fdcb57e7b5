"""vLLM's own app as it is served: each route is in the docs' table, and behind Keel's gate."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from keel.engines.vllm.deployment import Deployment
from keel.engines.vllm.gate import VARIABLE, Gate

PAGE = Path(__file__).parents[3] / "docs" / "serve.md"
TASKS = ("generate", "transcription", "realtime", "render")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture
def app(monkeypatch, tmp_path):
    """vLLM's app with everything that can be switched on, and Keel's middleware around it."""
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gate = Gate.make()
    monkeypatch.setenv(VARIABLE, str(gate.folder))
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    given = ["--enable-scale-out", "--middleware", "keel.engines.vllm.front.Front"]
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(given)
    args.enable_fault_tolerance = True
    app = build_app(args, TASKS, None)
    deployment = Deployment((1,), default="high").to_config()
    app.state.vllm_config = SimpleNamespace(additional_config={"keel": deployment})
    yield app
    gate.leave()


def test_the_table_of_endpoints_has_every_route_of_vllms(app):
    """A route that a later vLLM adds must be looked at before it is claimed to be held."""
    table = PAGE.read_text(encoding="utf-8").split("## What is held")[1]
    named = set(re.findall(r"`(/[^` ]*)`", table))
    assert {route.path for route in app.routes} - named == set()


def test_no_route_that_answers_passes_a_closed_gate(app):
    from starlette.testclient import TestClient

    client = TestClient(app)  # not entered: vLLM's own lifespan wants an engine
    for route in app.routes:
        if "POST" in (getattr(route, "methods", None) or ()):
            assert client.post(route.path, json={}).status_code in (403, 503), route.path
    assert client.get("/health").status_code == 503


def test_no_socket_passes_a_closed_gate(app):
    from starlette.testclient import TestClient
    from starlette.websockets import WebSocketDisconnect

    socket = TestClient(app).websocket_connect("/v1/realtime")
    with pytest.raises(WebSocketDisconnect) as closed, socket:
        pytest.fail("it was let in")
    assert "not open" in closed.value.reason
