"""Verdicts in files and webhooks: none keeps an answer waiting, what is lost is counted."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from keel.errors import UsageError
from keel.serve.sinks import Sink, jsonl_sink, webhook_sink

TURN = {"state": "ok", "gaps": 1.0, "evidence": 1.0, "turn": 1, "is_new_alarm": False}
ALARM = {**TURN, "state": "alarm", "is_new_alarm": True}


def test_every_verdict_is_a_line(tmp_path):
    sink = jsonl_sink(tmp_path / "log.jsonl")
    sink(TURN)
    sink(ALARM)
    assert sink.drain(10)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["state"] for line in lines] == ["ok", "alarm"]
    assert all(abs(line["at"] - time.time()) < 60 for line in lines)


def test_a_file_that_cannot_be_written_loses_lines_and_says_so(tmp_path, capsys):
    sink = jsonl_sink(tmp_path / "nowhere" / "log.jsonl")
    sink(TURN)
    assert sink.drain(10)
    assert sink.lost == 1
    assert "has lost 1 events" in capsys.readouterr().err


def test_a_sink_that_hangs_keeps_nobody_waiting(capsys):
    released = threading.Event()
    sink = Sink("a sink", lambda _: released.wait(30), room=2)
    for _ in range(10):
        sink(TURN)
    released.set()
    assert sink.drain(10)
    assert 7 <= sink.lost <= 8  # two wait, and one may be in work


@pytest.fixture
def hook():
    """A server that refuses the first two posts, and what it took."""
    taken, refused = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            is_refused = len(refused) < 2
            (refused if is_refused else taken).append(json.loads(body))
            self.send_response(503 if is_refused else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", taken
    server.shutdown()
    server.server_close()
    thread.join()


def test_alarms_and_nothing_else_are_posted_until_they_are_taken(hook):
    url, taken = hook
    sink = webhook_sink(url, first_pause_s=0.01)
    sink(TURN)
    sink(ALARM)
    assert sink.drain(20)
    assert [event["state"] for event in taken] == ["alarm"]
    assert sink.lost == 0


def test_an_alarm_that_nobody_takes_is_lost_and_counted():
    sink = webhook_sink("http://127.0.0.1:9/", first_pause_s=0.001)
    sink(ALARM)
    assert sink.drain(20)
    assert sink.lost == 1


def test_a_webhook_that_is_no_address_is_refused():
    with pytest.raises(UsageError, match="'hook', expected a URL"):
        webhook_sink("hook")
