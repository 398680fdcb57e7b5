"""The page `/keel` of a server, as a browser shows it, and the numbers that it draws.

For this machine alone where the server has no key; with one, for whoever gives it. Numbers only.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from keel.engines.vllm.asgi import Scope, Send, header_of, send_json
from keel.engines.vllm.metrics import EngineNumbers, ServerNumbers

NUMBERS_PATH, DRIFT_PATH = "/keel/numbers", "/keel/drift"
_HERE = ("127.0.0.1", "localhost", "[::1]", "::1")
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        b"img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'",
    ),
)


def wants_page(scope: Scope) -> bool:
    """Whether a browser asks, and not a program that reads JSON."""
    return "text/html" in header_of(scope, "accept")


def refusal_of(scope: Scope, keys: Sequence[str]) -> tuple[int, str] | None:
    """Status and reason where the page is refused to a request; `keys` are the server's.

    A browser asks its user for a name and a password: the password is the key.
    """
    if keys:
        given = _key_in(header_of(scope, "authorization"))
        if any(hmac.compare_digest(given.encode(), key.encode()) for key in keys):
            return None
        return 401, "this page wants the server's API key, as bearer or as a password"
    name = re.sub(r":\d+$", "", header_of(scope, "host"))  # a page from elsewhere keeps its name
    client = scope.get("client")
    is_here = client is None or client[0] in _HERE or not client[0]  # none: a Unix socket
    if is_here and name in _HERE and not header_of(scope, "x-forwarded-for"):
        return None
    return 403, "this page is for the server's own machine; start the server with --api-key"


def _key_in(authorization: str) -> str:
    """The bearer's token, or the password of a browser's user."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "basic":
        return given.strip() if scheme.lower() == "bearer" else ""
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


async def refuse_page(send: Send, status: int, reason: str) -> None:
    """Say why, and let a browser ask for the key."""

    async def with_question(message: Any) -> None:
        if message["type"] == "http.response.start" and status == 401:
            wanted = (b"www-authenticate", b'Basic realm="Keel", charset="UTF-8"')
            message["headers"] = [*message["headers"], wanted]
        await send(message)

    await send_json(with_question, status, {"error": {"message": reason, "code": status}})


async def send_page(send: Send) -> None:
    """The page itself, which then asks for its numbers."""
    body = files("keel.engines.vllm").joinpath("page", "index.html").read_bytes()
    kind = (b"content-type", b"text/html; charset=utf-8")
    headers = [kind, (b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def page_numbers(
    server: ServerNumbers, engines: Sequence[EngineNumbers | None], *, fault: str = ""
) -> dict[str, Any]:
    """What the page says of the cap: whether it is on, verified when and by what, and for whom."""
    return {
        "model": server.model_name,
        "is_capped": bool(engines) and all(server.shows_capped(engine) for engine in engines),
        "fault": fault,
        "facts": server.facts,
        "probed_s_ago": server.probed_s_ago,
        "engines": [None if engine is None else asdict(engine) for engine in engines],
    }
