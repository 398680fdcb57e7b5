"""What Keel costs inside vLLM at a model's shape: decode and prefill, over plain vLLM."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import Machine
from benchmarks.measuring import Spread, ratios
from benchmarks.vllm.process import Process
from benchmarks.vllm.shapes import LOADS, Device, Load, Shape

PLAIN = "plain vLLM"
_TOGETHER = 256
_EXTRACTION = Load("extraction", _TOGETHER, 64, 128)


@dataclass(frozen=True)
class _Row:
    """A row of the table: an engine, and what its requests ask for."""

    engine: str
    held: float = 0.0
    record: bool = False
    watch: bool = False
    """Whether each answer is read for an alarm, as a server does."""
    target: float | None = None


_ROWS: Mapping[str, _Row] = {
    PLAIN: _Row("plain"),
    "plugin idle": _Row("per request", target=1.01),
    "held globally": _Row("global", 1.0, target=1.01),
    "every request held": _Row("per request", 1.0, target=1.01),
    "means at all layers": _Row("means", record=True, target=1.03),
    "watched, none held": _Row("watched", watch=True, target=1.01),
    "watched, all held": _Row("watched", 1.0, watch=True, target=1.01),
}


def measure(shape: Shape, *, mode: str, rounds: int, is_end_to_end: bool) -> dict[str, Any]:
    """All loads on all rows, in interleaved rounds, as JSON has it.

    Raises NotMeasuredError where the device has no room for the shape.
    """
    device = Device.here()
    engines = _engines(shape)
    fit = device.engines_at_once(shape, len(engines))
    taken: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        spec = {
            "folder": str(shape.write(Path(folder))),
            "share": device.share(shape),
            "cache_bytes": shape.cache_bytes,
        }
        pool = _Pool(engines, spec, mode, fit)
        with pool.closing():
            for number in range(rounds):
                for name, row, load in _in_order(pool, number):
                    found = pool.ask(row, load)
                    taken[load.name][name].append(found)
                    _say(f"round {number + 1}, {load.name}, {name}: {found['wall_s']:.2f} s")
            runner = pool.runner
            extraction = None
            if is_end_to_end and fit > 1:
                extraction = _end_to_end(pool, spec, device, rounds)
    return {
        "shape": shape.name,
        "mode": mode,
        "rounds": rounds,
        "device": device.name,
        "runner": runner,
        "versions": {"vllm": _vllm(), **_versions()},
        "engines_at_once": fit,
        "loads": {load: _compared(rows) for load, rows in taken.items()},
        "extraction_times_faster": extraction,
    }


def show(console: Console, result: Mapping[str, Any]) -> None:
    """The table, as the page on costs has it."""
    console.print(
        f"[bold]{result['shape']}[/], dummy weights, {result['mode']}, {result['device']}, "
        f"{result['runner']}, vLLM {result['versions']['vllm']}; time over plain vLLM, median "
        f"(least to most) of {result['rounds']} interleaved rounds",
        highlight=False,
    )
    table = Table("", *result["loads"])
    for name in _ROWS:
        if name != PLAIN:
            cells = [_cell(result["loads"][load][name]["ratio"]) for load in result["loads"]]
            table.add_row(name, *cells)
    console.print(table)
    last = result["loads"][LOADS[2].name]["means at all layers"]
    per_answer_ms = 1e3 * last["collect_s"] / LOADS[2].requests
    console.print(f"Collecting means takes {per_answer_ms:.2f} ms an answer.", highlight=False)
    faster = result["extraction_times_faster"]
    if faster is not None:
        line = f"Extraction end to end is {_cell(faster)} times as fast as vLLM and a second pass."
        console.print(line, highlight=False)


def _cell(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.3f} ({spread['low']:.3f} to {spread['high']:.3f})"


def _engines(shape: Shape) -> dict[str, dict[str, Any] | None]:
    band = {"layers": shape.band, "steps": 1}
    return {
        "plain": None,
        "global": {**band, "is_global": True, "default": "held", "settings": 2},
        "per request": {**band, "settings": 4},
        "means": {**band, "settings": 4, "recordings": _TOGETHER},
        "watched": {**band, "settings": 4, "watched_layer": shape.band[0] - 1},
    }


class _Pool:
    """Engines that are up: all of them, or one at a time where no more fits."""

    def __init__(
        self,
        engines: Mapping[str, dict[str, Any] | None],
        spec: Mapping[str, Any],
        mode: str,
        fit: int,
    ) -> None:
        self.engines, self.spec, self.mode, self.fit = engines, spec, mode, fit
        self.running: dict[str, Process] = {}
        self.runner = ""

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Ends all engines afterwards."""
        try:
            yield
        finally:
            self.keep()

    def ask(self, row: _Row, load: Load, **more: Any) -> dict[str, Any]:
        """What a load took on a row's engine, which is started where it is not up."""
        if row.engine not in self.running:
            if len(self.running) >= self.fit:
                self.keep()
            self._start(list(self.engines) if self.fit > 1 else [row.engine])
        return self.running[row.engine].ask(
            requests=load.requests,
            prompt=load.prompt,
            new=load.new,
            held=row.held,
            record=row.record,
            watch=row.watch,
            **more,
        )

    def keep(self, *names: str) -> None:
        """End all engines but these."""
        with ExitStack() as stack:
            for name in [name for name in self.running if name not in names]:
                stack.callback(self.running.pop(name).end)

    def _start(self, names: Sequence[str]) -> None:
        for name in names:
            deployment = json.dumps(self.engines[name])
            self.running[name] = Process(
                "benchmarks.vllm.arm", deployment, self.mode, json.dumps(self.spec)
            )
        for name in names:
            self.runner = self.running[name].hear()["runner"]
            _say(f"engine `{name}` is up")
        for row in (row for row in _ROWS.values() if row.engine in names):
            for load in LOADS:  # the first time is slower than all others
                self.ask(row, load)


def _in_order(pool: _Pool, number: int) -> Iterator[tuple[str, _Row, Load]]:
    """What one round asks: load by load where all engines are up, else engine by engine."""
    rows = list(_ROWS.items())
    if number % 2:
        rows.reverse()
    if pool.fit > 1:
        yield from ((name, row, load) for load in LOADS for name, row in rows)
    else:
        rows.sort(key=lambda pair: list(pool.engines).index(pair[1].engine) * (-1) ** number)
        yield from ((name, row, load) for name, row in rows for load in LOADS)


def _compared(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Of each row its median times, and its ratios to plain vLLM."""
    plain = rows[PLAIN]
    compared = {}
    for name, found in rows.items():
        times = {
            key: statistics.median(each[key] for each in found)
            for key in ("wall_s", "step_s", "collect_s")
        }
        spreads = {
            label: asdict(ratios([each[key] for each in found], [each[key] for each in plain]))
            for label, key in (("ratio", "wall_s"), ("step_ratio", "step_s"))
        }
        compared[name] = {**times, **spreads, "target": _ROWS[name].target}
    return compared


def _end_to_end(
    pool: _Pool, spec: Mapping[str, Any], device: Device, rounds: int
) -> dict[str, float]:
    """How much faster answers come with their means than by vLLM and then a reading pass."""
    means, plain = _ROWS["means at all layers"], _ROWS[PLAIN]
    pool.keep(means.engine, plain.engine)  # the reader needs their memory
    reader = Process("benchmarks.vllm.reader", spec["folder"], device.name)
    reader.hear()
    faster = []
    try:
        for number in range(rounds + 1):
            one = pool.ask(means, _EXTRACTION)
            made = pool.ask(plain, _EXTRACTION, give_texts=True)
            again = reader.ask(read=made["texts"])
            two = made["wall_s"] + again["wall_s"]
            if number:  # the first is slower
                faster.append(two / one["wall_s"])
            _say(f"extraction: {one['wall_s']:.1f} s, by two passes {two:.1f} s")
    finally:
        reader.end()
    return asdict(Spread.of(faster))


def _vllm() -> str:
    from keel.engines.vllm import vllm_version

    return vllm_version()


def _versions() -> dict[str, str]:
    machine = Machine.here()
    return {"torch": machine.torch, "keel": machine.commit, "date": machine.date}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
