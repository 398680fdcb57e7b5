"""Sends chat requests to one endpoint: within rate and budget, in threads, with retries.

The only place that knows where keys come from. Retries are ours, not the openai client's: each
attempt has to keep to pace and budget, a rest that one request was told to take is everybody's, and
a wait must end at once when the work is stopped.
"""

from __future__ import annotations

import json
import math
import os
import random
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from threading import Event, Lock, local
from typing import Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

from keel.endpoint.faults import (
    KEY_VARIABLE,
    TRIES_OF_NONSENSE,
    EndpointFaultError,
    NoAnswerError,
    RequestRefusedError,
    no_answer,
    read_fault,
    refusal_of,
)
from keel.endpoint.limits import Pace, Spending, Tokens, estimate_tokens
from keel.endpoint.requests import ChatRequest, Dialect, EndpointReply
from keel.errors import BudgetError, EndpointError, KeelError, MissingExtraError, UsageError
from keel.settings import EndpointLimits

ADDRESS_VARIABLE = "OPENAI_BASE_URL"

_OPENAI = "https://api.openai.com/v1"
_NO_KEY = "none"
"""The key sent to a server that was named by its address and asks for none."""
_CONNECT_S = 10.0
"""An attempt to connect cannot be broken off, so it must not last as long as an answer may."""
_FEWEST_FAILURES = 3
"""In a row, before an endpoint counts as down."""

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Endpoint:
    """A model's name and the address that it is served at."""

    model: str
    address: str

    def __post_init__(self) -> None:
        if not urlsplit(self.address).hostname:
            raise UsageError(
                f"address is {self.address!r}, expected one such as http://127.0.0.1:8000/v1"
            )

    @classmethod
    def of(cls, model: str, address: str | None = None) -> Endpoint:
        """An endpoint at the address given, else at that in OPENAI_BASE_URL, else at OpenAI's."""
        return cls(model, address or os.environ.get(ADDRESS_VARIABLE) or _OPENAI)

    @property
    def host(self) -> str:
        """Host and port, without user and password."""
        parts = urlsplit(self.address)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def key(self) -> str:
        """The key in the environment.

        Raises UsageError where OpenAI itself would be asked without one.
        """
        key = os.environ.get(KEY_VARIABLE)
        if key is None and self.address == _OPENAI:
            raise UsageError(f"{KEY_VARIABLE} is not set; export it, or give a server's address")
        return key or _NO_KEY

    def __str__(self) -> str:
        return f"{self.model!r} at {self.address}"


class EndpointClient:
    """Asks one endpoint; budget, pace and the fields it accepts are kept for the client's life."""

    def __init__(
        self,
        endpoint: Endpoint,
        limits: EndpointLimits = EndpointLimits(),
        spending: Spending | None = None,
    ) -> None:
        """With the `spending` of another client, both keep to one budget."""
        self.endpoint, self.limits = endpoint, limits
        self.spending = Spending(limits) if spending is None else spending
        self.pace = Pace(limits.requests_per_minute)
        self.dialect = Dialect()
        self.has_answered = False
        """Whether a proper reply ever came."""

    def check(self) -> None:
        """Raises MissingExtraError without the openai package, UsageError without a needed key."""
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                f"asking a model behind an address needs {error.name}, which is not installed; "
                "pip install 'keel-llm[evaluate]'"
            ) from error
        self.endpoint.key()

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection; at the end the requests still in flight are aborted.

        Raises what `check` does.
        """
        self.check()
        with closing(Connection(self)) as connection:
            yield connection


class Connection:
    """Sends requests until it is closed; made by `EndpointClient.connect`."""

    def __init__(self, client: EndpointClient) -> None:
        import openai

        self._client, self._limits = client, client.limits
        timeout_s = client.limits.timeout_s
        self._openai = openai.OpenAI(
            api_key=client.endpoint.key(),
            base_url=client.endpoint.address,
            timeout=openai.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S)),
            max_retries=0,
            http_client=openai.DefaultHttpxClient(
                event_hooks={"request": [self._trace_connections]}
            ),
        )
        self._lock = Lock()
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._stop = Event()
        self._is_closed = False
        self._is_first_back = Event()
        self._rest_until = 0.0
        self._attempt = local()
        """`sent`: when this thread's last attempt was sent."""
        self._was_up = -math.inf
        """When the latest attempt was sent that the endpoint took or refused for what it says."""

    def ask(self, request: ChatRequest) -> EndpointReply:
        """The reply, after as many attempts as the limits allow.

        Raises NoAnswerError when they are used up, RequestRefusedError for what this request says,
        EndpointFaultError where all would be refused, BudgetError; CancelledError once closed.
        """
        wait_s, attempts = self._limits.first_wait_s, 0
        while True:
            try:
                return self._ask_in_dialect(request)
            except NoAnswerError as fault:
                self._rest_until = max(self._rest_until, time.monotonic() + fault.wait_s)
                attempts += 1
                if attempts >= min(fault.tries or self._limits.attempts, self._limits.attempts):
                    raise
            self._is_first_back.set()
            self._client.spending.count_retry()
            self._sleep(wait_s + self._spread_s())
            wait_s = min(2 * wait_s, self._limits.longest_wait_s)

    def ask_all(
        self,
        tasks: Iterable[Task],
        work: Callable[[Task], Result],
        on_failure: Callable[[Task, EndpointFaultError], Result] | None = None,
    ) -> Iterator[Result]:
        """Results of `work(task)`, which calls `ask`, each as soon as it is known, in any order.

        As many tasks as there are workers are under way. A result that is not taken holds back the
        next task, since what was paid for and not taken is lost to a kill. Where the endpoint never
        answered before, the first task goes alone until its first attempt is back: what is wrong
        with all requests shows in one.

        A task without an answer becomes the result of `on_failure`, once another one that was sent
        since has been answered: one sent before may be late, and shows nothing. As many failures in
        a row as there are workers mean that the endpoint is down: its tasks are then left undone
        for a later run, rather than failed. Raises that EndpointError, or the first error of any
        other kind, after the results still under way. At the end the connection is closed.
        """
        unbegun, running = iter(tasks), dict[Future[Result], Task]()
        held: list[tuple[float, Result]] = []
        reason: Exception | None = None
        given = 0
        pool = ThreadPoolExecutor(self._limits.workers, thread_name_prefix="keel-endpoint")

        def begin(workers: int) -> None:
            for task in islice(unbegun, 0 if reason else workers - len(running)):
                running[future := pool.submit(work, task)] = task
                future.add_done_callback(lambda _: self._is_first_back.set())

        try:
            if not self._client.has_answered:
                begin(1)
                if running:
                    self._is_first_back.wait()
            if not any(future.done() for future in running):
                begin(self._limits.workers)
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    results: list[Result] = []
                    try:
                        results = self._settled(future, running.pop(future), on_failure, held)
                    except Exception as error:  # those stopped after the first one among them
                        reason = reason or error
                        self._stop.set()
                    begin(self._limits.workers)
                    for result in results:
                        yield result
                        given += 1
            if not isinstance(reason, EndpointError):
                yield from (result for _, result in held)
                given += len(held)
            if isinstance(reason, BudgetError):
                raise BudgetError(
                    f"{reason} after {given} answers; raise it, and run again for the rest"
                )
            if reason is not None:
                raise reason
        finally:
            self._break_off()
            pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Abort the requests in flight and close all connections."""
        self._break_off()
        self._openai.close()

    def _settled(
        self,
        future: Future[Result],
        task: Task,
        on_failure: Callable[[Task, EndpointFaultError], Result] | None,
        held: list[tuple[float, Result]],
    ) -> list[Result]:
        """Results to hand out now that a task is over.

        Failures wait in `held` for an answer, each with the time at which it was known. Raises the
        task's own error, or NoAnswerError where the endpoint is down.
        """
        try:
            result = future.result()
        except (RequestRefusedError, NoAnswerError) as fault:
            if on_failure is None:
                raise
            result = on_failure(task, fault)
            if isinstance(fault, NoAnswerError):
                held.append((time.monotonic(), result))
                is_nobody_there = fault.tries is not None and not self._client.has_answered
                if is_nobody_there or len(held) >= max(_FEWEST_FAILURES, self._limits.workers):
                    raise
                return []
        past = [failed for known, failed in held if known < self._was_up]
        held[:] = [each for each in held if each[0] >= self._was_up]
        return [*past, result]

    def _ask_in_dialect(self, request: ChatRequest) -> EndpointReply:
        """Send the request, leaving out one field after the other that the endpoint refuses."""
        client = self._client
        while True:
            dialect = client.dialect
            try:
                return self._send(request, dialect)
            except (KeelError, CancelledError):
                raise
            except Exception as error:
                refusal = refusal_of(error)
                if refusal is not None and client.dialect != dialect:
                    continue  # another thread has learned meanwhile what is refused
                proven = client.has_answered
                narrower = refusal and dialect.without(refusal, request, is_proven=proven)
                if not narrower:
                    fault = read_fault(
                        error,
                        str(client.endpoint),
                        has_answered=proven,
                        longest_retry_after_s=self._limits.longest_retry_after_s,
                    )
                    if isinstance(fault, RequestRefusedError):
                        self._note_up()
                    raise fault from error
                client.dialect = narrower

    def _send(self, request: ChatRequest, dialect: Dialect) -> EndpointReply:
        """Send one attempt within pace and budget, and count what it took."""
        most = Tokens(request.tokens, request.max_tokens or self._limits.max_reply_tokens)
        self._sleep(self._client.pace.next_wait_s())
        while (rest_s := self._rest_until - time.monotonic()) > 0:
            self._sleep(rest_s + self._spread_s())
        self._client.spending.reserve(most, self._stop)
        used, is_estimated = most, True  # a lost reply may cost its all
        self._attempt.sent = time.monotonic()
        try:
            body = self._post(dialect.fields(request))
            reply = _read_reply(body)
            received = estimate_tokens(reply.text) if reply else 0
            is_estimated = reply is None or reply.counted is None
            used = (reply and reply.counted) or Tokens(most.sent, received)
        except Exception as error:
            if hasattr(error, "status_code"):
                used, is_estimated = Tokens(), False  # a refusal costs nothing
            raise
        finally:
            self._client.spending.settle(most, used, is_estimated=is_estimated)
        if reply is None:
            said = f"no chat completion in {body.decode(errors='replace')[:200]!r}"
            raise no_answer(str(self._client.endpoint), said, tries=TRIES_OF_NONSENSE)
        self._client.has_answered = True
        self._note_up()
        return reply

    def _note_up(self) -> None:
        """Remember that the endpoint was up when this thread sent its last attempt."""
        with self._lock:
            self._was_up = max(self._was_up, self._attempt.sent)

    def _post(self, fields: dict[str, Any]) -> bytes:
        create = self._openai.chat.completions.with_streaming_response.create
        return body_within(
            self._limits.timeout_s, create(model=self._client.endpoint.model, **fields)
        )

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise CancelledError("the connection is closed")

    def _spread_s(self) -> float:
        """A random delay, so that waiting requests do not leave at the same moment."""
        return random.uniform(0, self._limits.first_wait_s)

    def _trace_connections(self, request: Any) -> None:
        """Remember each connection's socket: shutting it down is the one way to end a read."""

        def on_event(name: str, info: dict[str, Any]) -> None:
            if name.endswith(("connect_tcp.complete", "start_tls.complete")):
                with self._lock:
                    self._sockets.add(info["return_value"].get_extra_info("socket"))
                if self._is_closed:
                    self._break_off()

        request.extensions["trace"] = on_event

    def _break_off(self) -> None:
        self._is_closed = True
        self._stop.set()
        with self._lock:
            sockets = list(self._sockets)
        for connected in sockets:
            with suppress(OSError):  # it is closed already
                connected.shutdown(socket.SHUT_RDWR)


def _read_reply(body: bytes) -> EndpointReply | None:
    """The reply in a chat completion; None where the body is none."""
    try:
        record = json.loads(body)
        choice = record["choices"][0]
        message = choice["message"]
        text = message.get("content") or message.get("refusal") or ""
    except (ValueError, LookupError, TypeError, AttributeError):  # a page of HTML, a list, ...
        return None
    usage = record.get("usage") or {}
    sent, received = usage.get("prompt_tokens"), usage.get("completion_tokens")
    counted = None
    if isinstance(sent, int) and isinstance(received, int):
        counted = Tokens(sent, received)
    is_cut = choice.get("finish_reason") == "length"
    return EndpointReply(text if isinstance(text, str) else "", is_cut, counted)


def body_within(timeout_s: float, opening: AbstractContextManager[Any]) -> bytes:
    """The whole body of the response that `opening` gives, which must be there in time.

    Raises TimeoutError where it is later, ConnectionError where it breaks off.
    """
    deadline, chunks = time.monotonic() + timeout_s, list[bytes]()
    with opening as response:
        try:
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                # The client's own timeout is between bytes: a server that drips never reaches it.
                if time.monotonic() > deadline:
                    raise TimeoutError
        except TimeoutError:
            raise
        except Exception as error:  # httpx's or httpx2's, as the client's version has it
            raise ConnectionError(str(error)) from error
    return b"".join(chunks)
