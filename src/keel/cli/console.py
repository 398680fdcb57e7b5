"""What commands share: options, progress on stderr, results on stdout."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from keel.engines import Engine

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps, or map (all GPUs).")]
Dtype = Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")]
Blocks = Annotated[
    str | None,
    typer.Option(help="Path of the decoder blocks inside the model, where they are not found."),
]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
]
Seed = Annotated[int, typer.Option(help="Decides every random draw.")]


class Progress:
    """Progress bars on stderr, one per stage; call it with (stage, done, total)."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)


@contextmanager
def progress() -> Iterator[Progress]:
    """Bars from the first step on while the context lasts; they stay on the screen when done."""
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description:<34}"),
        bars.BarColumn(bar_width=30),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    shown = bars.Progress(*columns, console=stderr)
    try:
        yield Progress(shown)
    finally:
        if shown.tasks:  # else nothing was shown, and stopping would print an empty line
            shown.stop()


@contextmanager
def waiting(message: str) -> Iterator[None]:
    """A spinner on stderr for what has no measure."""
    with stderr.status(escape(message)):
        yield


def open_model(
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    blocks: str | None = None,
    trust_remote_code: bool = False,
) -> Engine:
    """The engine for a model, with a spinner while it loads."""
    with waiting(f"loading {model}"):
        from keel.engines import open_engine

        return open_engine(
            model, device=device, dtype=dtype, blocks=blocks, trust_remote_code=trust_remote_code
        )


def print_json(value: Any) -> None:
    """One JSON document on stdout; NaN and tensors do not pass."""
    json.dump(plain(value), sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def plain(value: Any) -> Any:
    """Values, tuples, paths and tensors as what JSON knows; a number that is none becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
