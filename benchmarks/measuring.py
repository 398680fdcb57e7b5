"""Timing and its arithmetic: arms measured in turn, ratios within a round, medians over rounds.

Imports the standard library only: it also runs in the environments of other libraries.
"""

from __future__ import annotations

import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


class NotMeasuredError(RuntimeError):
    """A benchmark could not be run, or its arms did not do the same work."""


@dataclass(frozen=True)
class Measurement:
    """What one arm took, once."""

    wall_s: float
    cpu_s: float
    """User and system time of all threads of the process."""
    peak_bytes: int | None = None
    """Most memory that the whole process ever held; None where arms share a process."""
    working_bytes: int | None = None
    """Most memory that the work held beyond libraries and model."""


Rounds = Mapping[str, Sequence[Measurement]]
"""Per arm one measurement a round, all arms in the same order of rounds."""


@dataclass(frozen=True)
class Spread:
    """A median with the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def timed(work: Callable[[], object]) -> Measurement:
    """What the work took, in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Measurement(time.perf_counter() - wall, time.process_time() - cpu)


def measured(work: Callable[[], object]) -> Measurement:
    """What the work took when it has this process to itself: time, and the most memory held."""
    loading, loaded = peak_bytes(), resident_bytes()
    _forget_peak()
    taken = timed(work)
    working = peak_bytes()
    return Measurement(taken.wall_s, taken.cpu_s, max(loading, working), working - loaded)


def in_turn(
    arms: Mapping[str, Callable[[], Measurement]],
    repeats: int,
    on_measured: Callable[[int, str, Measurement], None] = lambda number, arm, found: None,
) -> Rounds:
    """Every arm once a round, round after round, so that a slow minute slows all of them."""
    rounds: dict[str, list[Measurement]] = {arm: [] for arm in arms}
    for number in range(repeats):
        for arm, measure in arms.items():
            found = measure()
            rounds[arm].append(found)
            on_measured(number, arm, found)
    return rounds


def ratios(values: Sequence[float], base: Sequence[float]) -> Spread:
    """values / base, round by round: what both arms of a round suffered cancels out."""
    return Spread.of([value / beside for value, beside in zip(values, base, strict=True)])


def narrate(benchmark: str, number: int, arm: str, found: Measurement) -> None:
    """One line on stderr for who waits."""
    peak = "" if found.peak_bytes is None else f", peak {found.peak_bytes / 1e6:.0f} MB"
    line = f"{benchmark}, round {number + 1}, {arm}: {found.wall_s:.1f} s{peak}"
    print(line, file=sys.stderr, flush=True)


def resident_bytes() -> int:
    """Memory that this process holds now; the most it ever held where the system says no more."""
    return _from_status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """Most memory that this process ever held.

    Linux hands `ru_maxrss` of a parent down to its children, so the kernel's own mark is read.
    """
    mark = _from_status("VmHWM")
    if mark is not None:
        return mark
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _forget_peak() -> None:
    """Let the kernel's mark start anew from what is held now (`man 5 proc`), where it can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _from_status(field: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
