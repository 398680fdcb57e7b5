"""Says what fails behind an answer that goes out all the same: a line on stderr, and a counter.

The counter is prometheus_client's own: vLLM's `/metrics` has it, summed over HTTP processes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

SERIES = "keel_faults_total"
_PAUSE_S = 60.0
"""Least time between two lines of a kind."""


class FaultLog:
    """Counts faults by kind, and prints a line for a kind at most once a minute.

    A kind has a series from its first fault on: a healthy server has none.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.said = dict[str, float]()
        """When the last line of each kind was printed."""
        self.unsaid = dict[str, int]()
        """Faults since that line."""

    def note(self, kind: str, reason: object) -> None:
        """Count a fault; say it where no line of its kind was printed in the last minute."""
        _counter().labels(kind).inc()
        self.unsaid[kind] = self.unsaid.get(kind, 0) + 1
        now = self.clock()
        if kind in self.said and now - self.said[kind] < _PAUSE_S:
            return
        count, self.unsaid[kind], self.said[kind] = self.unsaid[kind], 0, now
        times = "" if count == 1 else f", {count} times since it was last said"
        words = " ".join(str(reason).split()) or type(reason).__name__
        print(f"keel: {kind}{times}: {words}", file=sys.stderr, flush=True)


@cache
def _counter() -> Any:
    from prometheus_client import Counter

    words = "What failed behind answers that went out all the same, by kind."
    return Counter(SERIES.removesuffix("_total"), words, ["kind"])
