"""Requests that come at about the same time -> batches of one engine, one after the other.

An engine is for one thread and is fastest with many prompts at once. So one thread of its own
takes what has come in, a batch per sampling, and gives the answers out once it is sure that the
floors reached the model. Knows nothing of who asks.
"""

from __future__ import annotations

import atexit
import ctypes
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from threading import Thread

from keel.engines import Completion
from keel.errors import UsageError
from keel.serve.held import Held
from keel.steering import Firing
from keel.types import Prompt, Sampling

_ENDS_BY_ITSELF_S = 0.1


@dataclass(frozen=True)
class Answer:
    """One request's answer, and what is known of the batch that it came from."""

    completion: Completion
    firing: Firing | None
    """Of the whole batch; None where nothing holds the model."""
    batch_size: int
    """Requests answered together."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One request; its answer comes as the future's result."""

    prompt: Prompt
    sampling: Sampling
    seed: int
    """Decides this answer's draws, whatever else is in the batch."""
    future: Future[Answer] = field(default_factory=Future)
    """Cancel it, and the request is dropped unless its batch has begun."""


class Gatherer:
    """Answers requests of any thread in one thread of its own, until it is closed."""

    def __init__(self, held: Held, *, quiet_s: float = 0.02, most: int = 256) -> None:
        """A batch begins when nothing more has come for `quiet_s`, or `most` are waiting."""
        self._held, self._quiet_s, self._most = held, quiet_s, most
        self._queue: Queue[Asked | None] = Queue(most)
        self._taken: list[Asked] = []
        self._is_closed = False
        # A daemon, stopped by hand: a process that ends does not wait for answers nobody will
        # read, and a thread that is cut off inside torch would take the process down with it.
        self._thread = Thread(target=self._work, name="keel answers", daemon=True)
        atexit.register(self.close)
        self._thread.start()

    def offer(self, asked: Asked) -> bool:
        """Take a request; False where as many are waiting as there is room for: offer it again.

        Raises UsageError once closed.
        """
        if self._is_closed:
            raise _closed()
        try:
            self._queue.put_nowait(asked)
        except Full:
            return False
        return True

    def close(self) -> None:
        """Drop what is waiting, and the batch at work where it stands."""
        atexit.unregister(self.close)
        self._is_closed = True
        self._drop()
        self._queue.put(None)
        self._thread.join(_ENDS_BY_ITSELF_S)
        while self._thread.is_alive():
            _end(self._thread)
            self._thread.join(1)
        self._drop()
        _refuse(self._taken, _closed())

    def _work(self) -> None:
        with suppress(SystemExit):  # from `close`
            while not self._is_closed and (first := self._queue.get()) is not None:
                self._taken = [first]
                self._take_others()
                for group in _by_sampling(self._taken):
                    self._answer(group)

    def _take_others(self) -> None:
        while len(self._taken) < self._most:
            try:
                one = self._queue.get(timeout=self._quiet_s)
            except Empty:
                return
            if one is None:
                return
            self._taken.append(one)

    def _answer(self, group: Sequence[Asked]) -> None:
        ready = [one for one in group if one.future.set_running_or_notify_cancel()]
        ready = [one for one in ready if self._can_answer(one)]
        try:
            prompts = [one.prompt for one in ready]
            for batch in self._held.engine.plan(prompts, group[0].sampling) if ready else ():
                self._answer_batch([ready[place] for place in batch.indices])
        except Exception as error:
            _refuse(ready, error)

    def _can_answer(self, one: Asked) -> bool:
        """Whether it fits by itself: what is wrong with one request is not the others' fault."""
        try:
            self._held.engine.plan([one.prompt], one.sampling)
        except Exception as error:
            one.future.set_exception(error)
            return False
        return True

    def _answer_batch(self, batch: Sequence[Asked]) -> None:
        engine, floors = self._held.engine, self._held.floors
        completions = engine.generate(
            [one.prompt for one in batch],
            batch[0].sampling,
            seed=[one.seed for one in batch],
            recording=self._held.gauge.recording,
            interventions=tuple(floors) if floors is not None else (),
        )
        # All of them are taken, and NotAppliedError raised, before any answer is given out.
        by_index = {completion.index: completion for completion in completions}
        for index, one in enumerate(batch):
            one.future.set_result(Answer(by_index[index], completions.firing, len(batch)))

    def _drop(self) -> None:
        while True:
            try:
                one = self._queue.get_nowait()
            except Empty:
                return
            if one is not None:
                _refuse([one], _closed())


def _refuse(asked: Sequence[Asked], error: Exception) -> None:
    for one in asked:
        if not one.future.done():
            one.future.set_exception(error)


def _closed() -> UsageError:
    return UsageError("the model was closed before it answered; open it again")


def _end(thread: Thread) -> None:
    """Raise SystemExit in a thread, at its next step in Python."""
    number = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(SystemExit))


def _by_sampling(waiting: Sequence[Asked]) -> list[list[Asked]]:
    groups: dict[Sampling, list[Asked]] = {}
    for one in waiting:
        groups.setdefault(one.sampling, []).append(one)
    return list(groups.values())
