"""Takes the sums of watched answers out of the workers, as soon as an answer has ended.

In the HTTP process. Answers that end together are asked for in one call. Knows no HTTP and no
conversations: an HTTP request that is watched carries a `WatchedRequest`, which is filled before
its last tokens are handed on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from keel.engines.vllm.faults import FaultLog
from keel.engines.vllm.token_book import WATCH
from keel.engines.vllm.watching import answer_key

_PATIENCE_S = 5.0
"""How long an answer waits for its numbers; then it goes out unread."""
SUMS_FAILED, SUMS_LATE = "workers give no sums of answers", "workers give sums of answers too late"
"""Kinds of faults."""


@dataclass(frozen=True)
class AnswerSums:
    """Sums over the projections of an answer's tokens at the alarm's layer."""

    tokens: int
    total: float
    squares: float
    first: float
    """Sum over the first 16 tokens."""
    firing: float = 0.0
    """Share (0 to 1) of the answer's slots, a token at a held layer, that were moved."""

    @property
    def mean(self) -> float:
        """Mean projection; NaN of no tokens."""
        return self.total / self.tokens if self.tokens else float("nan")


@dataclass(frozen=True)
class UnreadAnswer:
    """An answer whose sums are not known."""

    reason: str
    """`NOT_SEEN`, `FAILED` or `LATE`: no worker knows it, the workers failed, or took too long."""


NOT_SEEN, FAILED, LATE = "not seen", "workers failed", "too late"

CallWorkers = Callable[[Any, Sequence[str]], Awaitable[list[list[list[float] | None]]]]
"""Sums by worker and key, of an engine client and keys."""


class SumsReader:
    """Reads the sums of ended answers from all workers, one call at a time."""

    def __init__(self, call: CallWorkers, faults: FaultLog | None = None) -> None:
        self.call = call
        self.faults = faults or FaultLog()
        self.waiting: dict[str, asyncio.Future[AnswerSums | UnreadAnswer]] = {}
        self.task: asyncio.Task[None] | None = None

    async def read(self, client: Any, keys: Sequence[str]) -> list[AnswerSums | UnreadAnswer]:
        """The sums of each key, or why they are not known."""
        loop = asyncio.get_running_loop()
        futures = [self.waiting.setdefault(key, loop.create_future()) for key in keys]
        if self.task is None or self.task.done():
            self.task = loop.create_task(self._drain(client))
        done, _ = await asyncio.wait(futures, timeout=_PATIENCE_S)
        if len(done) < len(futures):
            self.faults.note(SUMS_LATE, f"not within {_PATIENCE_S:g} s")
        return [f.result() if f in done else UnreadAnswer(LATE) for f in futures]

    async def _drain(self, client: Any) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting, {}
            sums: list[AnswerSums | UnreadAnswer]
            try:
                workers = await self.call(client, list(batch))
                sums = [_sums_of([worker[n] for worker in workers]) for n in range(len(batch))]
            except Exception as error:  # whatever vLLM makes of an engine that fails
                self.faults.note(SUMS_FAILED, error)
                sums = [UnreadAnswer(FAILED)] * len(batch)
            for future, given in zip(batch.values(), sums, strict=True):
                if not future.done():
                    future.set_result(given)


def _sums_of(rows: Sequence[list[float] | None]) -> AnswerSums | UnreadAnswer:
    """The sums of an answer, as the worker gives them that reads the alarm's layer."""
    row = next((row for row in rows if row is not None), None)
    return UnreadAnswer(NOT_SEEN) if row is None else AnswerSums(int(row[0]), *row[1:])


@dataclass
class WatchedRequest:
    """One HTTP request whose answers are watched, with their sums as they end."""

    reader: SumsReader
    prompts: int = 0
    """Prompts of it that were handed to the engine so far."""
    sums: dict[tuple[int, int], AnswerSums | UnreadAnswer] = field(default_factory=dict)
    """By prompt and by number of the answer to it."""
    looks: tuple[int, ...] = ()
    """Tokens after which an answer that goes on is looked at."""
    early: dict[tuple[int, int], AnswerSums] = field(default_factory=dict)
    """Of answers that go on what was last seen at such a look; whoever uses it takes it out."""

    def answers(
        self, generate: Callable[..., AsyncIterator[Any]], client: Any, prompt: Any, params: Any
    ) -> AsyncIterator[Any]:
        """What vLLM generates for a prompt, the sums of ended answers known before their end is."""
        number, self.prompts = self.prompts, self.prompts + 1
        return self._answers(number, generate, client, prompt, copy(params))

    async def _answers(
        self,
        number: int,
        generate: Callable[..., AsyncIterator[Any]],
        client: Any,
        prompt: Any,
        params: Any,
    ) -> AsyncIterator[Any]:
        name = secrets.token_hex(8)
        params.extra_args = {**(params.extra_args or {}), WATCH: [name, params.n or 1]}
        seen = dict[int, int]()
        async for output in generate(prompt, params):
            await self._look(number, name, output, params, seen, client)
            ended = [each.index for each in output.outputs if each.finish_reason is not None]
            new = [index for index in ended if (number, index) not in self.sums]
            if new:
                keys = [answer_key(name, index) for index in new]
                for index, sums in zip(new, await self.reader.read(client, keys), strict=True):
                    self.sums[number, index] = sums
            yield output

    async def _look(
        self,
        number: int,
        name: str,
        output: Any,
        params: Any,
        seen: dict[int, int],
        client: Any,
    ) -> None:
        """Read the answers that have just passed so many tokens and go on; `seen` counts them."""
        passed = list[int]()
        for each in output.outputs if self.looks else ():
            before = seen.get(each.index, 0)
            is_part = params.output_kind.name == "DELTA"
            seen[each.index] = (before if is_part else 0) + len(each.token_ids)
            is_due = any(before < look <= seen[each.index] for look in self.looks)
            if is_due and each.finish_reason is None:
                passed.append(each.index)
        if passed:
            keys = [answer_key(name, index) for index in passed]
            for index, sums in zip(passed, await self.reader.read(client, keys), strict=True):
                if isinstance(sums, AnswerSums):
                    self.early[number, index] = sums
