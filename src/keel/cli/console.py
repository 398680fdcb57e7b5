"""Options that every command has, opening a model, progress on stderr, results on stdout."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from keel.settings import OUTPUT, OpeningSettings

if TYPE_CHECKING:
    from keel.engines import Engine

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)

_SECONDS_BETWEEN_LINES = 10
_SECONDS_OF_SILENCE = 15
_WIDE = 100
"""Columns of a terminal in which a bar of 30 leaves a stage's name the most of a line."""
_NARROW = 56


def _check_no_alias(path: Path) -> Path:
    """Raises MissingArtifactError for a model's alias with a slip, where no run's name is near."""
    if len(path.parts) != 1 or path.exists():
        return path
    from keel.engines import EMBEDDED
    from keel.errors import MissingArtifactError

    near = difflib.get_close_matches(path.name.lower(), EMBEDDED, n=1, cutoff=0.7)
    beside = [plan.parent.name for plan in Path().glob("*/plan.json")]
    if near and path.name not in EMBEDDED and not difflib.get_close_matches(path.name, beside, n=1):
        raise MissingArtifactError(
            f"{path} is no run folder; if it is a model, did you mean {near[0]}? keel extract "
            f"{near[0]} -o runs/{near[0]}"
        )
    return path


Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Folder of a run.", show_default=False, callback=_check_no_alias
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what it would take; do nothing.", rich_help_panel=OUTPUT),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Do anew what was begun with other inputs.", rich_help_panel=OUTPUT
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Decides every random draw.")]


Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


@contextmanager
def progress() -> Iterator[Progress]:
    """Shows on stderr how far each stage is: bars on a terminal, else a plain line now and then."""
    if not stderr.is_terminal or stderr.is_dumb_terminal:
        lines = Lines()
        with repeating(lines.beat):
            yield lines
        return
    shown = bars_on(stderr)
    try:
        yield Bars(shown)
    finally:
        if shown.tasks:  # else nothing was shown, and stopping would print an empty line
            shown.stop()


def bars_on(terminal: Console) -> Any:
    """Bars that fit a terminal: names of stages take several lines there, and are never cut."""
    from rich import progress as bars
    from rich.table import Column

    def fixed() -> Column:
        return Column(no_wrap=True)

    columns = [
        bars.TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        bars.BarColumn(bar_width=30 if terminal.width >= _WIDE else 10, table_column=fixed()),
        bars.MofNCompleteColumn(table_column=fixed()),
        bars.TimeElapsedColumn(table_column=fixed()),
        bars.TimeRemainingColumn(table_column=fixed()),
    ]
    if terminal.width < _NARROW:  # no room for a bar and an estimate
        del columns[1], columns[-1]
    return bars.Progress(*columns, console=terminal)


class Bars:
    """One bar per stage, from its first step on; they stay on the screen when done."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)


@contextmanager
def repeating(beat: Callable[[], None], every_s: float = 1.0) -> Iterator[None]:
    """Calls `beat` again and again, in a thread of its own, while the block runs."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(every_s):
            beat()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


class Lines:
    """Plain lines of progress for a log, no more than one in ten seconds.

    A stage's start, its end, and between them one per tenth of the work; after fifteen seconds
    without any, one that says how it stands.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[str, tuple[float, int]] = {}
        self._shown: dict[str, tuple[float, int]] = {}
        self._last: tuple[str, int, int] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self._clock()
        self._began.setdefault(stage, (now, done))
        is_due = self._is_due(stage, now, done, total)
        self._last = (stage, done, total) if done < total else None
        if is_due:
            self._show(stage, now, done, total)

    def beat(self) -> None:
        """Shows how the stage that is at work stands, where nothing was shown for a while."""
        now, last = self._clock(), self._last
        if last is not None and now - self._shown[last[0]][0] >= _SECONDS_OF_SILENCE:
            self._show(last[0], now, *last[1:])

    def _show(self, stage: str, now: float, done: int, total: int) -> None:
        self._shown[stage] = (now, done)
        began, kept = self._began[stage]  # what was kept of an earlier call took no time now
        seconds, made = now - began, done - kept
        left = (
            f", about {seconds / made * (total - done):.0f} s left" if made and done < total else ""
        )
        print(f"{stage}: {done}/{total}, {seconds:.0f} s{left}", file=sys.stderr, flush=True)

    def _is_due(self, stage: str, now: float, done: int, total: int) -> bool:
        if stage not in self._shown:
            return True
        when, before = self._shown[stage]
        if done >= total:
            return before < total
        return now - when >= _SECONDS_BETWEEN_LINES and (done - before) * 10 >= total


@contextmanager
def waiting(message: str, every_s: float = _SECONDS_OF_SILENCE) -> Iterator[None]:
    """Shows on stderr what is waited for: a spinner, without a terminal a line now and then."""
    if stderr.is_terminal and not stderr.is_dumb_terminal:
        with stderr.status(escape(message)):
            yield
        return
    began = time.monotonic()

    def say() -> None:
        print(f"{message}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    with repeating(say, every_s):
        yield


def open_model(model: str, opening: OpeningSettings | None = None) -> Engine:
    """The engine for a model, with a spinner while it loads."""
    return load_engine(model, (opening or OpeningSettings()).arguments)


def load_engine(model: str, arguments: Mapping[str, Any]) -> Engine:
    """An engine from arguments of `open_engine`, with a spinner while it loads."""
    with waiting(f"loading {model}"):
        from huggingface_hub.utils import logging

        from keel.engines import open_engine

        # It warns of every retry; our error says it once.
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        return open_engine(model, **arguments)


def print_price(price: Mapping[str, Any], json: bool) -> None:
    """Prints what a dry run estimates, a line for each number."""
    if json:
        print_json(price)
        return
    width = max(34, *(len(what) + 2 for what in price))
    for what, value in price.items():
        stdout.print(f"{what.replace('_', ' '):<{width}}{value}")


def print_json(value: Any) -> None:
    """Prints one JSON document on stdout; NaN and infinities become null."""
    json.dump(plain(value), sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def plain(value: Any) -> Any:
    """Dataclasses, tuples, paths and tensors as JSON values; NaN and infinities become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.metadata.get("key", f.name): plain(getattr(value, f.name)) for f in fields}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
