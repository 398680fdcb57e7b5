"""Collects requests that come at about the same time into batches for one engine.

An engine belongs to one thread and is fastest with many prompts at once. One worker thread takes
the waiting requests, forms a batch per sampling, and gives the answers out once the engine has
proved that the floors reached the model. Knows nothing of HTTP or of Inspect.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from threading import Event, Thread

from keel.engines import Completion
from keel.errors import UsageError
from keel.serve.model import ServedModel
from keel.steering import Firing
from keel.types import Prompt, Sampling


@dataclass(frozen=True)
class BatchedAnswer:
    """One request's completion, with the firing and the size of its batch."""

    completion: Completion
    firing: Firing | None
    """Of the whole batch; None if the model is uncapped."""
    batch_size: int
    """Requests answered together."""


@dataclass(frozen=True, eq=False)
class PendingRequest:
    """A request whose answer comes as the future's result."""

    prompt: Prompt
    sampling: Sampling
    seed: int
    """Decides this answer's draws, whatever else is in the batch."""
    future: Future[BatchedAnswer] = field(default_factory=Future)
    """Cancel it, and the request is dropped unless its batch has begun."""


class RequestBatcher:
    """Answers requests from any thread in one worker thread, until it is closed."""

    def __init__(self, served: ServedModel, *, quiet_s: float = 0.02, max_waiting: int = 256):
        """A batch begins when no request has come for `quiet_s`, or `max_waiting` are waiting."""
        self._served, self._quiet_s, self._max_waiting = served, quiet_s, max_waiting
        self._queue: Queue[PendingRequest | None] = Queue(max_waiting)
        self._is_closed = Event()
        # A daemon, so that an exception in the main thread cannot leave the process waiting for
        # answers; `close` joins it, since a thread that is cut off inside torch at exit would
        # crash the process.
        self._thread = Thread(target=self._run, name="keel answers", daemon=True)
        atexit.register(self.close)
        self._thread.start()

    def offer(self, request: PendingRequest) -> bool:
        """Take a request; False if `max_waiting` are waiting already: offer it again later.

        Raises UsageError once closed.
        """
        self._check_open()
        try:
            self._queue.put_nowait(request)
        except Full:
            return False
        if self._is_closed.is_set():  # while we put it: nobody else would refuse it
            self._refuse_waiting()
        return True

    def close(self) -> None:
        """Refuse waiting requests, and end the running batch before its next forward pass."""
        atexit.unregister(self.close)
        self._is_closed.set()
        self._refuse_waiting()  # makes room for the None that wakes the worker
        self._queue.put(None)
        self._thread.join()
        self._refuse_waiting()

    def _run(self) -> None:
        while not self._is_closed.is_set() and (first := self._queue.get()) is not None:
            requests = [first, *self._take_more()]
            groups: dict[Sampling, list[PendingRequest]] = {}
            for request in requests:
                groups.setdefault(request.sampling, []).append(request)
            for sampling, group in groups.items():
                self._answer(group, sampling)

    def _take_more(self) -> list[PendingRequest]:
        """Requests that follow the first without a pause."""
        requests: list[PendingRequest] = []
        while len(requests) < self._max_waiting - 1:
            try:
                request = self._queue.get(timeout=self._quiet_s)
            except Empty:
                break
            if request is None:
                break
            requests.append(request)
        return requests

    def _answer(self, requests: Sequence[PendingRequest], sampling: Sampling) -> None:
        started = [request for request in requests if request.future.set_running_or_notify_cancel()]
        ready = [request for request in started if self._fits(request)]
        try:
            prompts = [request.prompt for request in ready]
            for batch in self._served.engine.plan(prompts, sampling) if ready else ():
                self._answer_batch([ready[index] for index in batch.indices], sampling)
        except Exception as error:
            _refuse(ready, error)

    def _fits(self, request: PendingRequest) -> bool:
        """Whether the request fits in memory by itself; if not, it alone gets the error."""
        try:
            self._served.engine.plan([request.prompt], request.sampling)
        except Exception as error:
            request.future.set_exception(error)
            return False
        return True

    def _answer_batch(self, batch: Sequence[PendingRequest], sampling: Sampling) -> None:
        floors = self._served.floors
        completions = self._served.engine.generate(
            [request.prompt for request in batch],
            sampling,
            seed=[request.seed for request in batch],
            recording=self._served.recording,
            interventions=tuple(floors) if floors is not None else (),
            on_step=self._check_open,
        )
        # All of them are taken, and NotAppliedError raised, before any answer is given out.
        by_index = {completion.index: completion for completion in completions}
        for index, request in enumerate(batch):
            answer = BatchedAnswer(by_index[index], completions.firing, len(batch))
            request.future.set_result(answer)

    def _check_open(self) -> None:
        if self._is_closed.is_set():
            raise UsageError("the model was closed before it answered; open it again")

    def _refuse_waiting(self) -> None:
        closed = UsageError("the model was closed before it answered; open it again")
        while True:
            try:
                request = self._queue.get_nowait()
            except Empty:
                return
            if request is not None:
                _refuse([request], closed)


def _refuse(requests: Sequence[PendingRequest], error: Exception) -> None:
    for request in requests:
        if not request.future.done():
            request.future.set_exception(error)
