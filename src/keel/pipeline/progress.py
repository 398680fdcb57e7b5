"""Reporting the progress of a long stage, and saving its results on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

Result = TypeVar("Result")

OnProgress = Callable[[str, int, int], None]
"""Called with the stage's name, how much is done, and of how much."""
_SAVE_EVERY_S = 0.5


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


def saved_on_the_way(
    results: Iterable[Result], save: Callable[[list[Result]], None]
) -> Generator[Result, None, None]:
    """Passes results on, saved every half second, so that none is lost whatever stops them."""
    waiting: list[Result] = []
    saved_at = time.monotonic()
    try:
        for result in results:
            waiting.append(result)
            if time.monotonic() - saved_at > _SAVE_EVERY_S:
                save(waiting)
                waiting, saved_at = [], time.monotonic()
            yield result
    finally:
        if waiting:
            save(waiting)
        if (close := getattr(results, "close", None)) is not None:
            close()
