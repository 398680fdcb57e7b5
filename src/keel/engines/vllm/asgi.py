"""Answers of an ASGI app, changed on their way out. Knows nothing of Keel."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Change = Callable[[Mapping[str, Any], bytes], Awaitable[bytes]]
"""Takes the message that starts an answer and its whole body; gives the body to send instead."""


def changing_body(send: Send, change: Change) -> Send:
    """A `send` that changes an answer's body, which it holds back until it is whole."""
    start, parts = dict[str, Any](), list[bytes]()

    async def changed(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = await change(start, b"".join(parts))
        kept = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
        await send({**start, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})

    return changed


def header_of(message: Mapping[str, Any], name: str) -> str:
    """A header of a request's scope or of an answer's start; empty where it is not there."""
    pairs = ((k.decode("latin-1"), v) for k, v in message.get("headers", ()))
    return next((v.decode("latin-1") for k, v in pairs if k.lower() == name), "")


async def read_body(receive: Receive) -> tuple[bytes, Receive]:
    """A request's whole body, and a `receive` that gives it again."""
    parts, messages = list[bytes](), list[MutableMapping[str, Any]]()
    while True:
        message = await receive()
        messages.append(message)
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            break

    async def again() -> MutableMapping[str, Any]:
        return messages.pop(0) if messages else await receive()

    return b"".join(parts), again


async def send_json(send: Send, status: int, value: object) -> None:
    """Answer with a JSON value."""
    body = json.dumps(value).encode()
    length = (b"content-length", str(len(body)).encode())
    headers = [(b"content-type", b"application/json"), length]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
