"""Callbacks by which a long stage reports its progress."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]
"""Called with the stage's name, how much is done, and of how much."""


def silent(stage: str, done: int, total: int) -> None:
    """A callback that ignores progress."""


class Counter:
    """Counts towards a total and reports each addition to a callback."""

    def __init__(self, stage: str, total: int, on_progress: OnProgress) -> None:
        self.stage, self.total, self.on_progress, self.done = stage, total, on_progress, 0

    def add(self, count: int) -> None:
        """Counts so many more as done."""
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        """So many are done altogether."""
        self.done = done
        self.on_progress(self.stage, self.done, self.total)
