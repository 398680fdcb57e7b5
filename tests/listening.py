"""What the tests' own HTTP servers share: a port here, and OpenAI's form of an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of these tests."""


class Handler(BaseHTTPRequestHandler):
    """Takes and gives JSON, and writes no log."""

    def asked(self) -> Any:
        """The request's body."""
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def say(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler], **members: Any) -> Iterator[str]:
    """The `/v1` address of a server for as long as the context lasts; the handler's class has
    these members besides."""
    server = _Server(("127.0.0.1", 0), type("Handler", (handler,), members))
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def chat_completion(
    text: str, *, finish: str = "stop", usage: tuple[int, int] | None = None
) -> dict[str, Any]:
    """An answer as OpenAI's chat route gives it; `usage` are tokens read and written."""
    message = {"role": "assistant", "content": text}
    found: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
    }
    if usage is not None:
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        found["usage"] = dict(zip(names, (*usage, sum(usage)), strict=True))
    return found
