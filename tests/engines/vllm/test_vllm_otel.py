"""Verdicts reach a collector of OpenTelemetry's, as events of the GenAI conventions.

Its packages come with vLLM, so that is where this runs.
"""

from __future__ import annotations

import gzip
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from keel.errors import MissingExtraError
from keel.serve.otel import EVENT, attributes_of, otel_sink

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

SAID = {"setting": "low", "gaps": -0.5, "evidence": 24.5, "state": "alarm", "since": 3, "turn": 4}
FOREIGN = {**SAID, "evidence": None, "state": "foreign", "since": None, "reason": "another prompt"}


def test_a_verdict_is_an_evaluations_result():
    assert attributes_of(SAID) == {
        "gen_ai.evaluation.name": "keel.drift",
        "gen_ai.evaluation.score.value": -0.5,
        "gen_ai.evaluation.score.label": "alarm",
        "gen_ai.evaluation.explanation": "evidence 24.5 at turn 4, most likely since turn 3",
    }
    said = attributes_of(FOREIGN)["gen_ai.evaluation.explanation"]
    assert said == "another prompt at turn 4"


def test_without_the_sdk_the_packages_are_named(monkeypatch):
    loaded = [name for name in sys.modules if name.startswith("opentelemetry.")]
    for name in ("opentelemetry", *loaded):  # another test may have loaded parts of it
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match="pip install opentelemetry-sdk"):
        otel_sink()


@pytest.fixture
def collector(monkeypatch):
    """(path, record) of all that a receiver of OTLP over HTTP gets."""
    logs = pytest.importorskip("opentelemetry.proto.collector.logs.v1.logs_service_pb2")
    received = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            raw = self.rfile.read(int(self.headers["content-length"]))
            is_packed = self.headers.get("content-encoding") == "gzip"
            request = logs.ExportLogsServiceRequest.FromString(
                gzip.decompress(raw) if is_packed else raw
            )
            for resource in request.resource_logs:
                for scope in resource.scope_logs:
                    received.extend((self.path, record) for record in scope.log_records)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "50")
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_collector_receives_every_verdict_and_no_action(collector):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http._log_exporter")
    sink = otel_sink()
    sink({"action": "refused"})
    sink(SAID)
    sink(FOREIGN)
    assert sink.drain(30)
    waits = threading.Event()
    for _ in range(200):
        if len(collector) == 2:
            break
        waits.wait(0.1)
    assert [path for path, _ in collector] == ["/v1/logs"] * 2
    (_, first), (_, second) = collector
    assert first.event_name == second.event_name == EVENT
    got = {each.key: each.value for each in first.attributes}
    assert got["gen_ai.evaluation.score.value"].double_value == -0.5
    assert got["gen_ai.evaluation.score.label"].string_value == "alarm"
    assert first.time_unix_nano > 0
