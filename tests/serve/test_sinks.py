"""Verdicts in files and webhooks: none keeps an answer waiting, what is lost is counted."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_loses_lines_and_says_so(capsys):
    sink = jsonl_sink(Path("/dev/full"))
    for _ in range(3):
        sink(TURN)
    assert sink.drain(10)
    assert sink.lost == 3
    assert "has lost 1 events: [Errno 28] No space left" in capsys.readouterr().err


def test_a_sink_that_hangs_keeps_nobody_waiting(capsys):
    released = threading.Event()
    sink = Sink("a sink", lambda _: released.wait(30), room=2)
    for _ in range(10):
        sink(TURN)
    released.set()
    assert sink.drain(10)
    assert 7 <= sink.lost <= 8  # two wait, and one may be in work


RECEIVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

kind, taken = sys.argv[1], open(sys.argv[2], "a")
posts = []

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        posts.append(body)
        if kind == "hangs":
            time.sleep(60)
        if kind == "slow":
            time.sleep(0.3)
        if kind == "closes":
            self.connection.close()
            return
        is_refused = kind == "refuses" or (kind == "refuses twice" and len(posts) <= 2)
        if not is_refused:
            print(body.decode(), file=taken, flush=True)
        self.send_response(503 if is_refused else 200)
        self.end_headers()

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def receiving(tmp_path):
    """Starts a process that receives posts, of a kind; its URL, and what it has taken."""
    processes, file = [], tmp_path / "taken.jsonl"

    def start(kind):
        command = [sys.executable, "-c", RECEIVER, kind, str(file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return f"http://127.0.0.1:{int(process.stdout.readline())}/"

    def taken():
        return [json.loads(line) for line in file.read_text().splitlines()]

    yield start, taken
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("kind", ["takes", "refuses twice", "slow"])
def test_a_receiver_gets_alarms_and_nothing_else_each_once(receiving, kind):
    start, taken = receiving
    sink = webhook_sink(start(kind), first_pause_s=0.01)
    for turn in range(1, 4):
        sink(TURN)
        sink({**ALARM, "turn": turn})
    assert sink.drain(30)
    assert [(event["state"], event["turn"]) for event in taken()] == [
        ("alarm", turn) for turn in range(1, 4)
    ]
    assert sink.lost == 0


@pytest.mark.parametrize("kind", ["hangs", "refuses", "closes"])
def test_a_receiver_that_takes_nothing_holds_nobody_up_and_is_named_once(receiving, kind, capsys):
    start, taken = receiving
    sink = webhook_sink(start(kind), first_pause_s=0.001, timeout_s=0.2)
    for _ in range(3):
        sink(ALARM)
    if kind == "hangs":
        assert not sink.drain(0)  # whoever handed them over has gone on
    assert sink.drain(60)
    assert taken() == []
    assert sink.lost == 3
    lines = capsys.readouterr().err.splitlines()
    said = [line.partition(" events: ")[0] for line in lines]
    assert said == [f"keel: the alarm's webhook has lost {n}" for n in (1, 2)]


def test_an_alarm_that_nobody_takes_is_lost_and_counted():
    sink = webhook_sink("http://127.0.0.1:9/", first_pause_s=0.001)
    sink(ALARM)
    assert sink.drain(20)
    assert sink.lost == 1
