"""The page over HTTP, for this machine alone.

Whoever can open it can run the model, so each request needs the token that stands in the address,
and must name this machine as its host: a page from elsewhere that has its own name point here is
refused, and no page of another origin may read an answer.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

from keel.errors import KeelError, MissingExtraError, UsageError
from keel.settings import UiSettings
from keel.ui.answering import SideBySide
from keel.ui.jobs import Job, JobQueue
from keel.ui.requests import AnswerRequest, ReadRequest, conversations_in, described, parsed

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise MissingExtraError(
        "the page needs starlette and uvicorn; install them: pip install 'keel-llm[ui]'"
    ) from error

TOKEN_HEADER = "x-keel-token"
_HOME = "127.0.0.1"
_HOSTS = (_HOME, "localhost", "[::1]")
_PORT = 8765
_MOST_BYTES = 32 * 1024 * 1024
_FILES = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "drawing.js": ("drawing.js", "text/javascript"),
}
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class Address:
    """Where the page is. Whoever knows it can talk to the model."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def __str__(self) -> str:
        return f"http://{_HOME}:{self.port}/?token={self.token}"


def serve_page(
    model: SideBySide, settings: UiSettings, on_open: Callable[[Address], None] = lambda _: None
) -> None:
    """Serve the page until it is interrupted; `on_open` is given its address.

    Raises UsageError where the port is taken, or the setting does not exist.
    """
    taken = _listen(settings.port)
    address = Address(taken.getsockname()[1])
    queue = JobQueue()
    try:
        app = make_app(model, queue, settings, address.token)
        config = uvicorn.Config(
            app, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=2
        )
        on_open(address)
        uvicorn.Server(config).run(sockets=[taken])
    finally:
        taken.close()
        queue.close()
        model.engine.close()


def make_app(model: SideBySide, queue: JobQueue, settings: UiSettings, token: str) -> Starlette:
    """The page as an ASGI application, for requests that show the token."""
    about = described(model, settings)

    async def run(_: Request) -> Response:
        return JSONResponse(about)

    async def answer(request: Request) -> Response:
        wanted = parsed(AnswerRequest, await _body(request))
        question = wanted.question(settings)
        return _streamed(queue, lambda job: model.answer(question, job.on_event, job.is_stopped))

    async def read(request: Request) -> Response:
        wanted = parsed(ReadRequest, await _body(request))
        conversation, setting = wanted.conversation, wanted.setting
        return _streamed(queue, lambda job: model.read(conversation, setting, job.on_event))

    async def load(request: Request) -> Response:
        name = request.query_params.get("name", "")
        body = await _body(request)
        return JSONResponse(await asyncio.to_thread(conversations_in, name, body))

    async def stop(request: Request) -> Response:
        return JSONResponse({"stopped": queue.stop(request.query_params.get("job", ""))})

    routes = [
        *(Route(f"/{path}", _file(*file)) for path, file in _FILES.items()),
        Route("/run", run),
        Route("/answer", _in_words(answer), methods=["POST"]),
        Route("/read", _in_words(read), methods=["POST"]),
        Route("/load", _in_words(load), methods=["POST"]),
        Route("/stop", stop, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, token=token)])


class Guard:
    """Lets through what names this machine, comes from its own page, and shows the token."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, in words, or pass on; either way no cache, no frame, no other origin."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        assert scope["type"] == "http"
        refusal = self._refusal(Request(scope))
        app = self._app if refusal is None else PlainTextResponse(refusal, 403)
        await app(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> str | None:
        headers: Headers = request.headers
        host = headers.get("host", "")
        if host.rpartition(":")[0] not in _HOSTS and host not in _HOSTS:
            return f"this page is for this machine alone: open it as {_HOME}, not as {host!r}"
        if headers.get("origin") not in (None, f"http://{host}"):
            return "a page of another origin may not use this model"
        shown = headers.get(TOKEN_HEADER) or request.query_params.get("token", "")
        if not secrets.compare_digest(shown.encode(), self._token.encode()):
            return "the token is missing or old: open the address that keel ui printed"
        return None


Handler = Callable[[Request], Awaitable[Response]]


def _in_words(handler: Handler) -> Handler:
    """Errors of ours become their sentence, for the page to show."""

    async def handled(request: Request) -> Response:
        try:
            return await handler(request)
        except KeelError as error:
            return JSONResponse({"error": str(error)}, 400)

    return handled


def _file(name: str, kind: str) -> Handler:
    """A file of the page; what it loads in turn is shown the token, too."""

    async def file(request: Request) -> Response:
        text = files("keel.ui").joinpath("page", name).read_text(encoding="utf-8")
        text = text.replace("{{token}}", request.query_params.get("token", ""))
        return Response(text, media_type=kind)

    return file


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise UsageError(
                f"that is more than {_MOST_BYTES // 2**20} MB; give a file with fewer "
                "conversations, or read it with keel drift"
            )
    return bytes(body)


def _streamed(queue: JobQueue, work: Callable[[Job], None]) -> Response:
    """The job's events, a line of JSON each, as they come; the job ends if nobody listens."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def on_event(kind: str, **values: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the page is, too
            loop.call_soon_threadsafe(events.put_nowait, {"event": kind, **values})

    job = Job(work, on_event)
    queue.add(job)

    async def lines() -> AsyncIterator[bytes]:
        try:
            while True:
                event = await events.get()
                yield json.dumps(event, ensure_ascii=False, default=asdict).encode() + b"\n"
                if event["event"] in ("done", "failed"):
                    return
        finally:
            queue.stop(job.id)

    return StreamingResponse(lines(), media_type="application/x-ndjson")


def _listen(port: int | None) -> socket.socket:
    """A socket of this machine's; without a port the usual one, or any where that is taken."""
    for each in (_PORT, 0) if port is None else (port,):
        taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((_HOME, each))
        except OSError:
            taken.close()
            continue
        taken.listen()
        return taken
    raise UsageError(f"port {port} cannot be had; give another --port, or 0 for any that is free")
