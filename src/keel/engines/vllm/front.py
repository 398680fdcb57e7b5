"""What Keel adds to the HTTP side of vLLM's server: which setting each request is held by.

An ASGI middleware, the outermost. It reads the setting that a request names, refuses what would be
ignored, names the setting in the response, and keeps `/health` red until `keel serve` has probed
the server. `settle` then holds all that the request computes to that setting, whatever path it
takes through vLLM.
"""

from __future__ import annotations

import hmac
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl

from keel.engines.vllm.admin import CHANGE_PATH, FloorsCall
from keel.engines.vllm.answer_sums import SumsReader, WatchedRequest
from keel.engines.vllm.asgi import Receive, Scope, Send, changing_body, read_body, send_json
from keel.engines.vllm.deployment import CHANGE_MARK, KEY, OFF, Deployment, ServeEnvironment
from keel.engines.vllm.gate import Gate, ServerAddress
from keel.engines.vllm.live import LiveFloors, named_change
from keel.engines.vllm.metrics import (
    METRICS_PATH,
    EngineNumbers,
    EngineReader,
    ServerNumbers,
    adding_series,
    series_of,
)
from keel.engines.vllm.naming import (
    CANDIDATE_HEADER,
    PROBE_HEADER,
    check_beside_body,
    named_setting,
    parsed,
)
from keel.engines.vllm.page import (
    DRIFT_PATH,
    NUMBERS_PATH,
    page_numbers,
    refusal_of,
    refuse_page,
    send_page,
    wants_page,
)
from keel.engines.vllm.serving import (
    check_request,
    default_of,
    facts_of,
    fingerprints_of,
    line_of,
    settings_of,
)
from keel.errors import UsageError

SETTING_HEADER = "x-keel-setting"
FACTS_PATH = "/keel"
_HEALTH = ("/health", "/ping")
_OPEN_METHODS = ("GET", "HEAD", "OPTIONS")
_DESCRIBED = ("/v1/models", "/version")
"""Answers of vLLM's to which what holds the server is added."""
CAPPED = "capped"
"""Behind a model's name: held by the default, or by the run's chosen setting where that is none."""
_VIOLATION = 1008
"""Code of a socket that is closed for what was sent, or that may not open."""
_RAW_RPC = "/collective_rpc"
"""A route of vLLM's developer mode by which anybody could write settings."""


@dataclass
class RequestSetting:
    """The setting of one HTTP request, and those that were used for it so far."""

    name: str | None
    """As the request names it; None for the server's default."""
    allowed: frozenset[str] | None = None
    """Settings that this client may have, beside the default; None for any."""
    used: set[str] = field(default_factory=set)
    watch: WatchedRequest | None = None
    """Takes the sums of its answers, where they are watched for an alarm."""
    live: LiveFloors | None = None
    """The floors that hold all of it, whatever others come; None for the engine's first."""


CURRENT: ContextVar[RequestSetting | None] = ContextVar("keel_request", default=None)
"""The request on behalf of which the running task computes."""


def settle(params: Any, deployment: Deployment | None) -> None:
    """Hold what is about to be computed by the setting that its HTTP request names.

    Paths of vLLM that make parameters of their own (beam search, scoring) would drop it. Changes
    `params` in place. Raises UsageError for a setting that the client may not have.
    """
    current = CURRENT.get()
    if current is None or deployment is None:
        return
    live = current.live
    deployment = deployment if live is None else live.under(deployment)
    arguments = getattr(params, "extra_args", None) or {}
    given, change = arguments.get(KEY), 0 if live is None else live.change
    if isinstance(given, str) and CHANGE_MARK in given:  # settled before
        given, of_change = named_change(given)
        if of_change != change:
            raise UsageError(f"{KEY} is of other floors than the request's")
    if current.name is not None and given not in (None, current.name):
        raise UsageError(f"{KEY} is {given!r} here and {current.name!r} in the request")
    name = current.name if given is None else given
    _check_allowed(name, current.allowed, deployment)
    held = deployment.default if name is None else str(name)
    if live is not None and change:
        check_request({KEY: name}, deployment, live.environment)
        params.extra_args = {**arguments, KEY: live.registered(held)}
    elif name is not None and given is None:
        params.extra_args = {**arguments, KEY: name}
    current.used.add(held)


def _check_allowed(name: object, allowed: frozenset[str] | None, deployment: Deployment) -> None:
    if name in (None, deployment.default) or allowed is None or name in allowed:
        return
    raise UsageError(
        f"{KEY} is {name!r}, which this client may not choose, expected {deployment.default} or "
        f"one of {sorted(allowed)}"
    )


def _end_without_keeper(gate: Gate) -> None:
    """End this server once the `keel serve` that probes it is gone, however it went."""
    gate.wait_until_left()
    print("keel: the keel serve that watched this server is gone; ending it", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)


class Front:
    """Wraps vLLM's app. `app` is what vLLM serves otherwise."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app
        self.gate = Gate.of(os.environ)
        self.environment = ServeEnvironment.of()
        self.fault = ""
        """Why this server must answer nobody; empty where it may."""
        self.reader = EngineReader()
        self.sums = SumsReader(
            lambda client, keys: _call_workers(client, "watched_sums", list(keys))
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._begin(scope["app"].state)
            await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            await self._hold_socket(scope, receive, send)
        if scope["type"] != "http":
            return
        state = scope["app"].state
        deployment = Deployment.from_config(state.vllm_config.additional_config)
        path = _path_of(scope)
        is_probe = self._is_probe(scope)
        live = self._live(is_candidate=is_probe and bool(_header(scope, CANDIDATE_HEADER)))
        is_refused = self._refusal(deployment, path, scope["method"], is_probe)
        if is_refused is not None:
            await _answer(send, *is_refused)
        elif deployment is not None and (path, scope["method"]) == (CHANGE_PATH, "POST"):
            assert live is not None
            call = FloorsCall(live, deployment, self.gate, state)
            raw, _ = await read_body(receive)
            await send_json(send, *await call.answer(_header(scope, "authorization"), raw))
        elif path == METRICS_PATH and (deployment is not None or self.gate is not None):
            server = self._server_numbers(state, deployment, live)
            engines = [] if deployment is None else await self._engine_numbers(state, live)
            adding = adding_series(
                scope, send, lambda beside: series_of(server, engines, beside=beside)
            )
            await self.app(scope, receive, adding)
        elif deployment is not None and _is_of_page(path, scope):
            await self._show(state, deployment, live, scope, receive, send)
        elif path == FACTS_PATH and deployment is not None:
            await self._tell_facts(state, deployment, live, scope, send)
        elif deployment is not None and path in _DESCRIBED:
            await self.app(scope, receive, _with_facts(send, _facts(deployment, live)))
        elif deployment is not None and scope["method"] == "POST":
            await self._hold(scope, receive, send, deployment, live, is_probe=is_probe)
        else:
            await self.app(scope, receive, send)

    async def _begin(self, state: Any) -> None:
        """Before the first connection: see that every worker of every node holds the same."""
        deployment = Deployment.from_config(state.vllm_config.additional_config)
        if deployment is not None and self.environment is not None:
            expected = fingerprints_of(self.environment)
            try:
                await _call_workers(state.engine_client, "confirm", expected)
            except Exception as error:  # whatever vLLM makes of an error in another process
                self.fault = " ".join(str(error).split())
            facts = facts_of(deployment, self.environment)
            print(f"keel: {self.fault or line_of(facts)}", file=sys.stderr, flush=True)
        if self.gate is not None:
            self.gate.announce(_address_of(state.args))
            Thread(target=_end_without_keeper, args=(self.gate,), daemon=True).start()

    def _server_numbers(
        self, state: Any, deployment: Deployment | None, live: LiveFloors | None
    ) -> ServerNumbers:
        served = state.args.served_model_name or [state.args.model]
        return ServerNumbers(
            served[0],
            not self.fault and (self.gate is None or self.gate.is_open),
            {} if deployment is None else _facts(deployment, live),
            None if self.gate is None else self.gate.passed_s_ago,
        )

    async def _engine_numbers(
        self, state: Any, live: LiveFloors | None
    ) -> list[EngineNumbers | None]:
        default = "" if live is None else live.registered(live.default)
        return await self.reader.read(state.engine_client, default)

    async def _show(
        self,
        state: Any,
        deployment: Deployment,
        live: LiveFloors | None,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer the page `/keel`, or what it draws."""
        path = _path_of(scope)
        refusal = refusal_of(scope, _keys_of(state))
        if refusal is not None:
            await refuse_page(send, *refusal)
        elif path == FACTS_PATH:
            await send_page(send)
        elif path == NUMBERS_PATH:
            server = self._server_numbers(state, deployment, live)
            engines = await self._engine_numbers(state, live)
            await send_json(send, 200, page_numbers(server, engines, fault=self.fault))
        else:
            await self.app(scope, receive, send)

    def _live(self, *, is_candidate: bool = False) -> LiveFloors | None:
        """The floors that a request which arrives now is held by."""
        return LiveFloors.of(self.environment, self.gate, is_candidate=is_candidate)

    def _is_probe(self, scope: Scope) -> bool:
        """Whether `keel serve` sent this; then vLLM's own key is not needed, too."""
        if self.gate is None:
            return False
        given = _header(scope, PROBE_HEADER)
        if not hmac.compare_digest(given.encode(), self.gate.key.encode()):
            return False
        keys = _keys_of(scope["app"].state)
        if keys:
            own = (b"authorization", f"Bearer {keys[0]}".encode())
            scope["headers"] = [*scope["headers"], own]
        return True

    def _refusal(
        self, deployment: Deployment | None, path: str, method: str, is_probe: bool
    ) -> tuple[int, str] | None:
        """Status and reason where this connection is not served."""
        is_answer = path in _HEALTH or method not in _OPEN_METHODS
        if deployment is None and self.gate is not None and is_answer:
            return 503, "Keel is not in this engine, which would answer uncapped"
        if self.fault and is_answer:
            return 503, self.fault
        if path.startswith(_RAW_RPC) and deployment is not None:
            return 403, "raw calls to workers could take the floors away; Keel refuses them"
        if self.gate is None or is_probe or self.gate.is_open or not is_answer:
            return None
        if not self.gate.has_keeper:
            return 503, "not open: the keel serve that watched this server is gone"
        return 503, "not open: no probe has shown yet that this server is capped"

    async def _hold(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        deployment: Deployment,
        live: LiveFloors | None,
        *,
        is_probe: bool,
    ) -> None:
        """Pass a request on under the setting that it names; a probe's is no conversation."""
        raw, receive = await read_body(receive)
        environment = None if live is None else live.environment
        deployment = deployment if live is None else live.under(deployment)
        try:
            served = scope["app"].state.args.served_model_name or ()
            check_beside_body(_headers(scope), scope["query_string"].decode("latin-1"))
            body = parsed(raw, _header(scope, "content-type"))
            name = _meant(named_setting(body, served), deployment, environment)
            is_watched = deployment.watched_layer is not None and not is_probe
            watch = WatchedRequest(self.sums) if is_watched else None
            current = RequestSetting(name, self._allowed(scope), watch=watch, live=live)
            if current.name is not None:
                check_request({KEY: current.name}, deployment, environment)
                _check_allowed(current.name, current.allowed, deployment)
        except UsageError as error:
            await _answer(send, 400, str(error))
            return

        async def send_named(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                used = current.used or _streamed(message, current, deployment)
                if used:
                    named = (SETTING_HEADER.encode(), ",".join(sorted(used)).encode())
                    message["headers"] = [*message.get("headers", ()), named]
            await send(message)

        token = CURRENT.set(current)
        try:
            await self.app(scope, receive, send_named)
        finally:
            CURRENT.reset(token)

    def _allowed(self, scope: Scope) -> frozenset[str] | None:
        """Settings that the sender may choose, by the key that it sent; None for any."""
        if self.environment is None or self.environment.allowed is None:
            return None
        allowed = set(self.environment.allowed)
        scheme, _, given = _header(scope, "authorization").partition(" ")
        for variable, more in self.environment.key_grants:
            key = os.environ.get(variable, "")
            is_key = hmac.compare_digest(key.encode(), given.strip().encode())
            if key and scheme.lower() == "bearer" and is_key:
                allowed |= set(more)
        return frozenset(allowed)

    async def _hold_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a socket in where a request would be, under the default: it cannot name a setting."""
        deployment = Deployment.from_config(scope["app"].state.vllm_config.additional_config)
        path = _path_of(scope)
        is_probe = self._is_probe(scope)
        is_refused = self._refusal(deployment, path, "POST", is_probe)
        served = scope["app"].state.args.served_model_name or ()
        if is_refused is None and deployment is None:
            await self.app(scope, receive, send)
            return

        def check(text: str) -> str:
            """Why a message may not pass; empty where it may."""
            try:
                name = named_setting(parsed(text.encode(), ""), served)
            except UsageError as error:
                return str(error)
            return "" if name is None else f"a socket is held by the default; {name} is ignored"

        async def receive_checked() -> MutableMapping[str, Any]:
            message = await receive()
            closed = self._refusal(deployment, path, "POST", is_probe)
            reason = check(message.get("text") or "") if closed is None else closed[1]
            if reason:
                await send({"type": "websocket.close", "code": _VIOLATION, "reason": reason[:120]})
                return {"type": "websocket.disconnect", "code": _VIOLATION}
            return message

        try:
            check_beside_body(_headers(scope), scope["query_string"].decode("latin-1"))
        except UsageError as error:
            is_refused = is_refused or (400, str(error))
        if is_refused is not None:
            await receive()  # what opens it
            reason = is_refused[1][:120]
            await send({"type": "websocket.close", "code": _VIOLATION, "reason": reason})
            return
        token = CURRENT.set(RequestSetting(None, frozenset(), live=self._live()))
        try:
            await self.app(scope, receive_checked, send)
        finally:
            CURRENT.reset(token)

    async def _tell_facts(
        self,
        state: Any,
        deployment: Deployment,
        live: LiveFloors | None,
        scope: Scope,
        send: Send,
    ) -> None:
        """Answer what holds this server; with `?firing=NAME`, how often that setting fired."""
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        facts = _facts(deployment, live)
        name = query.get("firing")
        if name is not None:
            name = name if live is None else live.registered(name or live.default)
            facts["firing"] = await _firing(state.engine_client, name)
        await send_json(send, 200, facts)


def _path_of(scope: Scope) -> str:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path


def _is_of_page(path: str, scope: Scope) -> bool:
    """Whether a browser, or the page in it, asks."""
    is_page = path in (NUMBERS_PATH, DRIFT_PATH) or (path == FACTS_PATH and wants_page(scope))
    return is_page and scope["method"] == "GET"


def _keys_of(state: Any) -> list[str]:
    """The keys that vLLM wants; empty where anybody is answered."""
    return [key for key in (state.args.api_key or [os.environ.get("VLLM_API_KEY")]) if key]


def _facts(deployment: Deployment, live: LiveFloors | None) -> dict[str, Any]:
    """What holds a server, for those who ask it."""
    if live is None:
        return facts_of(deployment, None)
    return facts_of(live.under(deployment), live.environment, changes=live.change)


def _meant(
    name: str | None, deployment: Deployment, environment: ServeEnvironment | None
) -> str | None:
    """The setting that `capped` stands for, of a model's name; any other as it is."""
    if name != CAPPED or environment is None or CAPPED in settings_of(environment):
        return name
    if deployment.default != OFF:
        return deployment.default
    return default_of(replace(environment, setting=None))


async def _firing(client: Any, name: str) -> dict[str, list[int]]:
    """Tokens seen and tokens moved under a setting, by layer, over all workers."""
    counts: dict[str, list[int]] = {}
    for worker in await _call_workers(client, "firing", name):
        for layer, pair in worker.items():
            before = counts.get(str(layer), [0, 0])
            counts[str(layer)] = [before[0] + int(pair[0]), before[1] + int(pair[1])]
    return counts


async def _call_workers(client: Any, method: str, *arguments: Any) -> list[Any]:
    """What a method of `WorkerState` returns in each worker of each engine, on every node.

    vLLM's own `collective_rpc` gives those of the first engine only.
    """
    call = client.engine_core.call_utility_all_async
    engines = await call("collective_rpc", "keel_call", None, (method, *arguments), None)
    return [worker for engine in engines for worker in engine]


def _streamed(
    message: Mapping[str, Any], current: RequestSetting, deployment: Deployment
) -> set[str]:
    """What a stream that has begun before its first step will be held by; else nothing."""
    kind = next((v for k, v in message.get("headers", ()) if k.lower() == b"content-type"), b"")
    is_stream = kind.startswith(b"text/event-stream") and message["status"] == 200
    return {current.name or deployment.default} if is_stream else set()


def _with_facts(send: Send, facts: Mapping[str, Any]) -> Send:
    """A `send` that adds what holds the server to a JSON object, or to each in its `data`."""

    async def added(start: Mapping[str, Any], body: bytes) -> bytes:
        content = parsed(body, "")
        if not isinstance(content, dict) or start["status"] != 200:
            return body
        for entry in content.get("data", [content]):
            entry["keel"] = facts
        return json.dumps(content).encode()

    return changing_body(send, added)


def _headers(scope: Scope) -> dict[str, str]:
    """Headers by their names in small letters; of several of a name the first."""
    pairs = [(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in scope["headers"]]
    return dict(reversed(pairs))


def _header(scope: Scope, name: str) -> str:
    return _headers(scope).get(name, "")


async def _answer(send: Send, status: int, reason: str) -> None:
    kind = {400: "BadRequestError", 403: "PermissionError"}.get(status, "ServiceUnavailable")
    error = {"message": reason, "type": kind, "param": KEY, "code": status}
    await send_json(send, status, {"error": error})


def _address_of(args: Any) -> ServerAddress:
    """Where a server with these arguments is reached from its own machine."""
    scheme = "https" if args.ssl_certfile else "http"
    host = args.host if args.host not in (None, "", "0.0.0.0", "::") else "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return ServerAddress(f"{scheme}://{host}:{args.port}{args.root_path or ''}", args.uds)
