"""Runs one job after another in a thread of its own: a model answers one request at a time."""

from __future__ import annotations

import atexit
import secrets
import traceback
from collections.abc import Callable
from threading import Condition, Event, Thread

from keel.errors import KeelError, UsageError

OnEvent = Callable[..., None]
"""Called from the worker thread, as on_event(kind, **values)."""


class Job:
    """Work that waits for its turn, runs, and can be stopped either way."""

    def __init__(self, work: Callable[[Job], None], on_event: OnEvent) -> None:
        self.id = secrets.token_hex(8)
        self.work, self.on_event = work, on_event
        self._stop = Event()

    def stop(self) -> None:
        """Have it end before its next forward pass, or not begin."""
        self._stop.set()

    def is_stopped(self) -> bool:
        """Whether it is to end."""
        return self._stop.is_set()

    def run(self) -> None:
        """Do the work; the last event is `done` or `failed`, whatever happens."""
        try:
            if not self.is_stopped():
                self.work(self)
            self.on_event("done")
        except KeelError as error:
            self.on_event("failed", message=str(error))
        except Exception as error:
            traceback.print_exc()
            self.on_event(
                "failed",
                message=f"this is a fault of Keel's own ({type(error).__name__}: {error}); the "
                "terminal shows where, and the page can go on",
            )


class JobQueue:
    """Jobs in the order in which they came, one at a time, until it is closed."""

    def __init__(self, *, max_waiting: int = 8) -> None:
        self._max_waiting = max_waiting
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._is_closed = False
        self._changed = Condition()
        # Joined on close: a thread cut off inside torch at exit would crash the process.
        self._thread = Thread(target=self._work, name="keel ui", daemon=True)
        atexit.register(self.close)
        self._thread.start()

    def add(self, job: Job) -> None:
        """Let a job wait for its turn; it is told how many are before it whenever that changes.

        Raises UsageError where too many wait already, and once closed.
        """
        with self._changed:
            if self._is_closed:
                raise UsageError("the page was closed; start it again with keel ui")
            if len(self._waiting) >= self._max_waiting:
                raise UsageError(
                    f"{len(self._waiting)} answers are waiting already; wait for them, or stop them"
                )
            self._waiting.append(job)
            self._say_positions()
            self._changed.notify()

    def stop(self, id: str) -> bool:
        """Stop the job of that id; False where there is none any more."""
        with self._changed:
            if self._running and self._running.id == id:
                self._running.stop()
                return True
            jobs = [job for job in self._waiting if job.id == id]
            for job in jobs:
                self._waiting.remove(job)
                job.stop()
                job.on_event("done")
            self._say_positions()
            return bool(jobs)

    def close(self) -> None:
        """Stop every job and wait for the thread."""
        atexit.unregister(self.close)
        with self._changed:
            self._is_closed = True
            for job in [*self._waiting, *([self._running] if self._running else [])]:
                job.stop()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                self._running = self._waiting.pop(0)
                self._say_positions()
            self._running.run()

    def _say_positions(self) -> None:
        before = 1 if self._running else 0
        for position, job in enumerate(self._waiting):
            job.on_event("waiting", job=job.id, ahead=position + before)
