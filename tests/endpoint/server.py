"""A real OpenAI-compatible server on this machine that misbehaves as it is told to."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What goes over the wire, and how."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    """Silence before the first byte."""
    sent: int | None = None
    """Bytes of the body sent before the connection is closed; None sends all."""
    drip_s: float = 0.0
    """Silence before each byte of the body."""


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    body: dict[str, Any]
    key: str
    at: float

    @property
    def case(self) -> str:
        """Which case it is about: cases of these tests say `answer-N`."""
        found = re.findall(r"answer-\d+", self.body["messages"][-1]["content"])
        return found[-1].removeprefix("answer-") if found else ""


Behaviour = Callable[[int, Asked], Answer]
"""What is answered to request number N, counted from 0."""


@dataclass
class Served:
    """The server's address, and what it saw."""

    behaviour: Behaviour
    address: str = ""
    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: Any = field(default_factory=Lock)
    closing: Event = field(default_factory=Event)


def say(
    text: str, *, usage: tuple[int, int] | None = (10, 2), finish: str = "stop", **how: Any
) -> Answer:
    """A chat completion that holds the text; `usage` are tokens read and written."""
    message = {"role": "assistant", "content": text}
    record: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
    }
    if usage is not None:
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        record["usage"] = dict(zip(names, (*usage, sum(usage)), strict=True))
    return Answer(json.dumps(record).encode(), **how)


def refuse(status: int, message: str = "no", *, code: str = "", param: str = "", **how: Any):
    """An error as OpenAI writes it."""
    error = {"message": message, "type": "error", "code": code or None, "param": param or None}
    return Answer(json.dumps({"error": error}).encode(), status, **how)


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[Served]:
    """A server at `address` for as long as the context lasts."""
    served = Served(behaviour)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": served}))
    served.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield served
    finally:
        served.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of these tests."""


class _Handler(BaseHTTPRequestHandler):
    served: Served

    def do_POST(self) -> None:
        served = self.served
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(body, self.headers["Authorization"], time.monotonic())
        with served.lock:
            served.asked.append(asked)
            number = len(served.asked) - 1
            served.at_once += 1
            served.most_at_once = max(served.most_at_once, served.at_once)
        try:
            is_known = self.path in ("/v1/chat/completions", "/v1/embeddings")
            answer = served.behaviour(number, asked) if is_known else refuse(404, self.path)
            served.closing.wait(answer.after_s)
        finally:
            with served.lock:
                served.at_once -= 1
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for byte in answer.body[: answer.sent]:
            if answer.drip_s:
                self.wfile.flush()
                self.served.closing.wait(answer.drip_s)
            self.wfile.write(bytes([byte]))

    def log_message(self, *args: object) -> None:
        """Nothing: the tests' output is for failures."""
