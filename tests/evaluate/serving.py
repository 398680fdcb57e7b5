"""A real server on this machine with OpenAI's chat route; it knows settings, or takes no notice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any


def _repeated(asked: str) -> str:
    return f"you said {asked}"


@dataclass
class Served:
    """A server, and what it was asked."""

    settings: set[str] | None = None
    """Names that it knows; None takes no notice of them."""
    refusals: int = 0
    """How many requests it puts off with 429 before it answers."""
    says: Callable[[str], str] = _repeated
    """Its answer to the last message."""
    address: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    lock: Any = field(default_factory=Lock)

    def status_for(self, body: dict[str, Any]) -> int:
        with self.lock:
            self.asked.append(body)
            if self.refusals > 0:
                self.refusals -= 1
                return 429
        setting = body.get("vllm_xargs", {}).get("keel")
        is_unknown = self.settings is not None and setting not in {None, "none", *self.settings}
        return 400 if is_unknown else 200


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    handler = type("Handler", (_Handler,), {"served": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    served.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Served

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.served.status_for(body)
        value: dict[str, Any] = {"error": {"message": "not now, or not this"}}
        if status == 200:
            text = self.served.says(body["messages"][-1]["content"])
            choice = {
                "index": 0,
                "finish_reason": "length",
                "message": {"role": "assistant", "content": text},
            }
            usage = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
            value = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass
