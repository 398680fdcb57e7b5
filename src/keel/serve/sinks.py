"""Where verdicts go beside the answers: a file of lines, a webhook, OpenTelemetry.

Each has a thread and a queue of bounded length: an answer never waits for it, and what does not fit
or cannot be delivered is counted as lost. Numbers only; no text, no ids.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from keel.errors import EndpointError

_ROOM = 1000
_TRIES, _FIRST_PAUSE_S, _TIMEOUT_S = 4, 0.5, 5.0

Event = Mapping[str, Any]


class Sink:
    """Hands events to `deliver` in a thread of its own, those that it `wants`."""

    def __init__(
        self,
        name: str,
        deliver: Callable[[Event], None],
        *,
        wants: Callable[[Event], bool] = lambda _: True,
        room: int = _ROOM,
    ) -> None:
        self.name, self.deliver, self.wants = name, deliver, wants
        self.waiting: queue.Queue[Event] = queue.Queue(room)
        self.lost = 0
        threading.Thread(target=self._run, name=f"keel-{name}", daemon=True).start()

    def __call__(self, event: Event) -> None:
        """Take an event, or lose it where too many wait."""
        if not self.wants(event):
            return
        try:
            self.waiting.put_nowait({"at": round(time.time(), 3), **event})
        except queue.Full:
            self._lose("its queue is full")

    def drain(self, timeout_s: float) -> bool:
        """Wait until all that was taken is delivered or lost; whether that was in time."""
        ends = time.monotonic() + timeout_s
        while self.waiting.unfinished_tasks and time.monotonic() < ends:
            time.sleep(0.01)
        return not self.waiting.unfinished_tasks

    def _run(self) -> None:
        while True:
            event = self.waiting.get()
            try:
                self.deliver(event)
            except Exception as error:  # whatever a disk or another's server makes of it
                self._lose(" ".join(str(error).split()))
            finally:
                self.waiting.task_done()

    def _lose(self, reason: str) -> None:
        self.lost += 1
        if self.lost & (self.lost - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...
            line = f"keel: {self.name} has lost {self.lost} events: {reason}"
            print(line, file=sys.stderr, flush=True)


def is_new_alarm(event: Event) -> bool:
    """Whether a conversation alarms with this event, and had not before."""
    return bool(event.get("is_new_alarm"))


def is_verdict(event: Event) -> bool:
    """Whether an event is a verdict on a turn, not an action."""
    return "state" in event


def jsonl_sink(path: Path) -> Sink:
    """Every verdict, and what an alarm led to, as a line at the end of a file.

    The file may be moved away between lines.
    """

    def append(event: Event) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    return Sink("the alarm's log", append)


def webhook_sink(
    url: str, *, first_pause_s: float = _FIRST_PAUSE_S, timeout_s: float = _TIMEOUT_S
) -> Sink:
    """Every new alarm as a JSON object that is posted to `url`, four times where it fails."""
    client = httpx.Client(timeout=timeout_s)

    def post(event: Event) -> None:
        for number in range(_TRIES):
            try:
                reply = client.post(url, json=event)
                if reply.status_code < 300:
                    return
                reason = f"status {reply.status_code}"
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
            if number + 1 < _TRIES:
                time.sleep(first_pause_s * 2**number)
        raise EndpointError(f"{url} does not take alarms: {reason}")

    return Sink("the alarm's webhook", post, wants=is_new_alarm)
