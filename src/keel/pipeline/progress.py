"""How a long stage tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]
"""Called with the stage's name, how much is done, and of how much."""


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class Counter:
    """Counts towards a total and tells whoever watches."""

    def __init__(self, stage: str, total: int, on_progress: OnProgress) -> None:
        self.stage, self.total, self.on_progress, self.done = stage, total, on_progress, 0

    def add(self, count: int) -> None:
        """So many more are done."""
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        """So many are done altogether."""
        self.done = done
        self.on_progress(self.stage, self.done, self.total)
