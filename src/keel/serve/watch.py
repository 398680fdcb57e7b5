"""Adds the alarm's verdict to each answer of a server: an ASGI middleware inside the front.

Of each answer it takes the sums that the workers kept. What fails here never keeps an answer back:
it goes out without a verdict, and is counted as unread.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from keel.engines.vllm import (
    CONVERSATION_FIELD,
    CONVERSATION_HEADER,
    CURRENT,
    DRIFT_PATH,
    METRICS_PATH,
    NOT_SEEN,
    PROVISIONAL_FIELD,
    PROVISIONAL_HEADER,
    REFUSE,
    AnswerSums,
    Receive,
    RequestSetting,
    Scope,
    Send,
    Series,
    ServeEnvironment,
    UnreadAnswer,
    WatchedRequest,
    action_of,
    adding_series,
    fitting_alarm,
    header_of,
    read_body,
    send_json,
    watch_folder,
)
from keel.errors import UsageError
from keel.serve.answer_shapes import AnswerPart, AnswerStream
from keel.serve.conversations import ConversationStore, MessageTurn, Namer
from keel.serve.drift_series import NO_CONTENT, NOT_JUDGED, NOT_KEPT
from keel.serve.otel import otel_sink
from keel.serve.sinks import Sink, jsonl_sink, webhook_sink
from keel.serve.watcher import (
    NOT_COUNTED,
    NOT_LOOKED_UP,
    UNJUDGED,
    UNJUDGED_EARLY,
    ServedTurn,
    Watcher,
)

PROVISIONAL_AT = (16, 64, 256)
"""Tokens after which a streamed answer is judged before its end, where its request wants that."""
WATCHED_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


def watcher_of(environment: MutableMapping[str, str]) -> Watcher:
    """The watcher that a server's environment names. Raises UsageError where there is no alarm."""
    served = ServeEnvironment.of(environment)
    alarm = fitting_alarm(served)
    if served is None or alarm is None:
        raise UsageError("this server has no alarm that fits; give keel serve --alarm RUN")
    store = ConversationStore(watch_folder(environment) / "conversations.sqlite")
    listeners = tuple(_sinks(environment, served.alarm_webhook))
    return Watcher(alarm, store, Namer(store.secret), listeners, served.alarm_rate)


def _sinks(environment: Mapping[str, str], webhook: str | None) -> Iterator[Sink]:
    """Where verdicts go beside the answers."""
    if environment.get("KEEL_ALARM_LOG"):
        yield jsonl_sink(Path(environment["KEEL_ALARM_LOG"]))
    if webhook is not None:
        yield webhook_sink(webhook)
    if environment.get("KEEL_ALARM_OTEL", "0") not in ("", "0"):
        yield otel_sink()


class Watch:
    """Wraps an app: adds a verdict to each answer of its chat endpoints."""

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        watcher: Watcher | None = None,
        action: str | None = None,
    ) -> None:
        self.app = app
        self.watcher = watcher_of(os.environ) if watcher is None else watcher
        self.action = action_of(ServeEnvironment.of()) if action is None else action or None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        current = CURRENT.get()
        if scope["type"] == "http" and path == METRICS_PATH:
            args = scope["app"].state.args
            model = (args.served_model_name or [args.model])[0]
            send = adding_series(scope, send, lambda _: self._series(model))
        elif scope["type"] == "http" and path == DRIFT_PATH:
            await send_json(send, 200, self.watcher.recent())
            return
        elif scope["type"] == "http" and path in WATCHED_PATHS and current is not None:
            raw, receive = await read_body(receive)
            body = _parsed(raw)
            if current.watch is not None and body is not None:
                request = _WatchedAnswers(self.watcher, body, scope, current, current.watch)
                send = request.adding(send)
                if self.action is not None and self._has_alarmed(request.turn):
                    if self.action == REFUSE:
                        self._acted("refused")
                        await send_json(send, 403, _REFUSAL)
                        return
                    if current.name is None:
                        self._acted(f"held by {self.action}")
                        current.name = self.action
                        if current.allowed is not None:  # it need not be the client's to choose
                            current.allowed |= {self.action}
        await self.app(scope, receive, send)

    def _series(self, model: str) -> list[Series]:
        """The watch's series; none where the store cannot be read."""
        try:
            return self.watcher.series(model)
        except sqlite3.Error as error:
            self.watcher.faults.note(NOT_COUNTED, error)
            return []

    def _has_alarmed(self, turn: MessageTurn) -> bool:
        """Whether the turn's conversation has alarmed; False where nobody can know."""
        try:
            return self.watcher.has_alarmed(turn)
        except sqlite3.Error as error:
            self.watcher.faults.note(NOT_LOOKED_UP, error)
            return False

    def _acted(self, action: str) -> None:
        """Say what was done with a turn of a conversation that has alarmed."""
        line = f"keel: a conversation has alarmed: its next turn is {action}"
        print(line, file=sys.stderr, flush=True)
        self.watcher.tell({"action": action})


_REFUSAL = {
    "error": {
        "message": "this conversation has left the model's character; begin a new one",
        "type": "PermissionError",
        "param": "keel",
        "code": 403,
    }
}


def _parsed(raw: bytes) -> Mapping[str, Any] | None:
    """A body's JSON object; None for what vLLM will refuse."""
    try:
        body = json.loads(raw)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _is_yes(value: object) -> bool:
    return str(value or "").lower() not in ("", "0", "0.0", "false", "no")


class _WatchedAnswers:
    """The answers to one HTTP request."""

    def __init__(
        self,
        watcher: Watcher,
        body: Mapping[str, Any],
        scope: Scope,
        current: RequestSetting,
        watched: WatchedRequest,
    ) -> None:
        self.watcher, self.current, self.watched = watcher, current, watched
        self.sender = header_of(scope, "authorization")
        arguments = body.get("vllm_xargs")
        named = arguments.get(CONVERSATION_FIELD) if isinstance(arguments, dict) else None
        id = header_of(scope, CONVERSATION_HEADER) or ("" if named is None else str(named))
        self.turn = watcher.namer.turn(body, id=id or None, sender=self.sender)
        early = isinstance(arguments, dict) and arguments.get(PROVISIONAL_FIELD)
        if _is_yes(header_of(scope, PROVISIONAL_HEADER)) or _is_yes(early):
            watched.looks = PROVISIONAL_AT if body.get("stream") else ()
        samples = body.get("n")
        self.samples = samples if isinstance(samples, int) and samples > 0 else 1

    def adding(self, send: Send) -> Send:
        """A `send` that adds verdicts to the answers that pass."""
        stream = AnswerStream(self._judge)
        start, parts = dict[str, Any](), list[bytes]()

        async def added(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                if _is_stream(start):
                    await send(message)
                return
            body, is_last = message.get("body", b""), not message.get("more_body", False)
            if _is_stream(start):
                await send({**message, "body": stream.events(body, is_last=is_last)})
                return
            parts.append(body)
            if not is_last:
                return
            whole = b"".join(parts)
            whole = stream.whole(whole) if start["status"] == 200 else whole
            kept = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
            length = (b"content-length", str(len(whole)).encode())
            await send({**start, "headers": [*kept, length]})
            await send({**message, "body": whole})

        return added

    def _judge(self, part: AnswerPart, text: str) -> Mapping[str, Any] | None:
        setting = ",".join(sorted(self.current.used))
        number = (part.index // self.samples, part.index % self.samples)
        if part.ended is None:
            early = self.watched.early.pop(number, None)
            return None if early is None else self._provisional(setting, early)
        try:
            said = self._verdict(part, text, setting, self.watched.sums.get(number))
        except Exception as error:  # an answer neither waits for its verdict nor fails with it
            self.watcher.faults.note(UNJUDGED, error)
            self._unread(NOT_KEPT if isinstance(error, sqlite3.Error) else NOT_JUDGED)
            said = None
        return {"setting": setting, "state": "unknown"} if said is None else said

    def _verdict(
        self, part: AnswerPart, text: str, setting: str, sums: AnswerSums | UnreadAnswer | None
    ) -> Mapping[str, Any] | None:
        """What is said of an answer that has ended; None where it could not be read."""
        known = sums if isinstance(sums, AnswerSums) else AnswerSums(0, 0.0, 0.0, 0.0)
        turn = ServedTurn(self.turn, text, setting, known, self.sender, part.id)
        if part.calls_tool:
            self._unread(NO_CONTENT, turn, is_turn=False)
            return None
        if known.tokens:
            return self.watcher.judge(turn)
        unseen = NOT_SEEN if sums is None else NO_CONTENT
        self._unread(sums.reason if isinstance(sums, UnreadAnswer) else unseen, turn)
        return None

    def _unread(self, reason: str, turn: ServedTurn | None = None, *, is_turn: bool = True) -> None:
        try:
            self.watcher.unread(reason, turn, is_turn=is_turn)
        except Exception as error:
            self.watcher.faults.note(NOT_COUNTED, error)

    def _provisional(self, setting: str, sums: AnswerSums) -> Mapping[str, Any] | None:
        try:
            return self.watcher.provisional(ServedTurn(self.turn, "", setting, sums, self.sender))
        except Exception as error:  # the answer goes on without
            self.watcher.faults.note(UNJUDGED_EARLY, error)
            return None


def _is_stream(start: Mapping[str, Any]) -> bool:
    return header_of(start, "content-type").startswith("text/event-stream")
