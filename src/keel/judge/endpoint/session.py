"""One spell of asking an endpoint: pace, budget, retries, and its dialect.

Knows cases and rubrics only as questions; who works on what is decided in `working`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any

import openai
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_exponential

from keel.errors import BudgetError
from keel.judge.endpoint.acquaintance import Acquaintance, Endpoint
from keel.judge.endpoint.dialect import Dialect
from keel.judge.endpoint.faults import (
    TryAgainError,
    fault_of,
    no_completion,
    refusal_of,
)
from keel.judge.endpoint.limits import Tokens
from keel.judge.endpoint.prompting import Question, estimate_tokens
from keel.settings import EndpointLimits

_SECONDS_PER_MINUTE = 60


@dataclass(frozen=True)
class Reply:
    """What the endpoint's model said."""

    text: str
    is_cut: bool
    """Whether it was cut off at the limit of tokens."""


class StoppedError(Exception):
    """The spell is over; whoever waits, stops waiting."""


class Session:
    """Asks questions until it is stopped."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        endpoint: Endpoint,
        limits: EndpointLimits,
        known: Acquaintance,
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._limits = limits
        self._known = known
        self._bucket = _bucket(limits)
        self._rest_until = 0.0
        self._waiting: set[asyncio.Task[Any]] = set()
        self._settled = asyncio.Condition()
        self.opened = asyncio.Event()
        """Set once a first request has come back: what is wrong with all of them shows in one."""
        self.stopped_by: Exception | None = None

    def stop(self, reason: Exception) -> None:
        """Send nothing more; what is in flight may come back. The first reason stays."""
        self.stopped_by = self.stopped_by or reason
        for task in self._waiting:
            task.cancel()

    async def ask(self, question: Question) -> Reply:
        """The reply, after as many attempts as the limits allow.

        Raises TryAgainError when they are used up, CaseRefusedError, EndpointError, BudgetError,
        and StoppedError or CancelledError where the session was stopped meanwhile.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(TryAgainError),
            wait=self._wait_s,
            stop=self._is_enough,
            before_sleep=self._count_retry,
            sleep=self._sleep,
            reraise=True,
        )
        reply: Reply = await retrying(self._attempt, question)
        return reply

    async def _attempt(self, question: Question) -> Reply:
        try:
            return await self._in_dialect(question)
        except TryAgainError as fault:
            now = asyncio.get_running_loop().time()
            self._rest_until = max(self._rest_until, now + fault.wait_s)
            raise
        finally:
            self.opened.set()

    async def _in_dialect(self, question: Question) -> Reply:
        """Ask, leaving out one field after the other that the endpoint refuses."""
        while True:
            dialect = self._known.dialect
            try:
                return await self._send(question, dialect)
            except Exception as error:
                has_answered = self._known.has_answered
                refusal = refusal_of(error)
                if refusal is not None and self._known.dialect != dialect:
                    continue  # somebody else has found out meanwhile what is refused
                narrower = refusal and dialect.without(refusal, is_proven=has_answered)
                if not narrower:
                    fault = fault_of(error, self._endpoint, self._limits, has_answered=has_answered)
                    raise fault from (None if fault is error else error)
                self._known.dialect = narrower

    async def _send(self, question: Question, dialect: Dialect) -> Reply:
        """One request, paid for."""
        most = Tokens(question.tokens, self._limits.max_reply_tokens)
        await self._turn(most)  # nothing else runs between this and the entry
        ledger, used, is_estimated = self._known.ledger, most, True  # a lost reply may cost its all
        ledger.enter(most)
        try:
            answer = await self._post(dialect.fields(question, self._limits.max_reply_tokens))
            counted = _usage(answer)
            used = counted or Tokens(question.tokens, estimate_tokens(_text(answer) or ""))
            is_estimated = counted is None
        except (openai.APIStatusError, JSONDecodeError):
            used, is_estimated = Tokens(), False
            raise
        finally:
            ledger.settle(most, used, is_estimated=is_estimated)
            await self._tell_settled()
        return self._reply_of(answer)

    async def _post(self, fields: dict[str, Any]) -> Any:
        # The client's own timeout is between bytes: a server that drips would never reach it.
        async with asyncio.timeout(self._limits.timeout_s):
            return await self._client.chat.completions.create(model=self._endpoint.model, **fields)

    def _reply_of(self, answer: Any) -> Reply:
        text = _text(answer)
        if text is None:
            raise no_completion(answer)
        self._known.has_answered = True
        return Reply(text, getattr(answer.choices[0], "finish_reason", None) == "length")

    async def _turn(self, most: Tokens) -> None:
        """Wait for pace, rest and budget. Raises BudgetError when nothing can make room."""
        loop = asyncio.get_running_loop()
        with self._idle():
            if self._bucket is not None:
                await self._bucket.acquire()
            while (rest_s := self._rest_until - loop.time()) > 0:
                await asyncio.sleep(rest_s + self._spread_s())
            async with self._settled:
                while not self._known.ledger.has_room(most):
                    if not self._known.ledger.can_have_room(most):
                        raise BudgetError(f"the budget of {self._known.ledger.budget} is used up")
                    await self._settled.wait()

    async def _tell_settled(self) -> None:
        async with self._settled:
            self._settled.notify_all()

    async def _sleep(self, seconds: float) -> None:
        with self._idle():
            await asyncio.sleep(seconds)

    @contextmanager
    def _idle(self) -> Iterator[None]:
        """Nothing is in flight for this task: it may be stopped at once."""
        if self.stopped_by is not None:
            raise StoppedError
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            yield
        finally:
            self._waiting.discard(task)

    def _wait_s(self, state: RetryCallState) -> float:
        """Doubled each time. A rest that the endpoint asked for is everybody's: see `_turn`."""
        limits = self._limits
        doubling = wait_exponential(multiplier=limits.first_wait_s, max=limits.longest_wait_s)
        return doubling(state) + self._spread_s()

    def _spread_s(self) -> float:
        """For all that wait not to come back at the same moment."""
        return random.uniform(0, self._limits.first_wait_s)

    def _is_enough(self, state: RetryCallState) -> bool:
        tries = _fault(state).tries or self._limits.attempts
        return state.attempt_number >= min(tries, self._limits.attempts)

    def _count_retry(self, _state: RetryCallState) -> None:
        self._known.ledger.retries += 1


def _bucket(limits: EndpointLimits) -> AsyncLimiter | None:
    """Lets one second's worth of requests through at once, and no minute's: services count over
    windows of their own, and a burst at the seam of two would be too many for both."""
    if limits.requests_per_minute is None:
        return None
    at_once = max(1.0, limits.requests_per_minute / _SECONDS_PER_MINUTE)
    return AsyncLimiter(at_once, at_once * _SECONDS_PER_MINUTE / limits.requests_per_minute)


def _fault(state: RetryCallState) -> TryAgainError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, TryAgainError)
    return error


def _text(answer: Any) -> str | None:
    """What was said, perhaps nothing; None where the answer is no chat completion at all."""
    choices = getattr(answer, "choices", None)  # a page of HTML comes back as a string
    message = (
        getattr(choices[0], "message", None) if choices and isinstance(choices, list) else None
    )
    if message is None:
        return None
    content = getattr(message, "content", None) or getattr(message, "refusal", None)
    return content if isinstance(content, str) else ""


def _usage(answer: Any) -> Tokens | None:
    usage = getattr(answer, "usage", None)
    sent = getattr(usage, "prompt_tokens", None)
    received = getattr(usage, "completion_tokens", None)
    if not isinstance(sent, int) or not isinstance(received, int):
        return None
    return Tokens(sent, received)
