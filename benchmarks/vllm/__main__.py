"""Throughput of plain vLLM beside Keel's ways of holding and recording, in one interleaved run."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from benchmarks.machine import Machine
from benchmarks.measuring import Measurement, NotMeasuredError, Rounds, in_turn, narrate, ratios
from benchmarks.outcomes import AtLeast, AtMost, Comparison, Outcome, ratio_of
from benchmarks.tables import show_arms, show_summary
from benchmarks.vllm.loads import measure, show
from benchmarks.vllm.process import Process
from benchmarks.vllm.shapes import SHAPES

_BAND = [18, 19, 20, 21, 22]
_HELD, _RECORDED = AtMost(1.01), AtMost(1.04)
_TIMES_FASTER = AtLeast(1.8)
_TOGETHER = 256
"""Answers of an extraction in work at once: vLLM's own default, and Keel's."""
_PLAIN = "plain vLLM"


@dataclass(frozen=True)
class Arm:
    """One way to run the same requests."""

    engine: str
    held: float = 0.0
    """Share of the requests that name a setting."""
    record: bool = False
    watch: bool = False
    """Whether each answer is read for an alarm, as a server does."""


ENGINES: Mapping[str, dict[str, Any] | None] = {
    "plain": None,
    "global": {"layers": _BAND, "is_global": True, "steps": 1, "default": "held", "settings": 2},
    "per request": {"layers": _BAND, "steps": 1, "settings": 4},
    "custom op": {"layers": _BAND, "steps": 1, "settings": 4, "custom_op": True},
    "probes": {"layers": _BAND, "steps": 1, "settings": 4, "probes": 1},
    "means": {"layers": _BAND, "steps": 1, "settings": 4, "recordings": _TOGETHER},
    "watched": {"layers": _BAND, "steps": 1, "settings": 4, "watched_layer": 17},
}
ARMS: Mapping[str, Arm] = {
    _PLAIN: Arm("plain"),
    "plugin idle": Arm("per request"),
    "held: global": Arm("global", 1.0),
    "held: all": Arm("per request", 1.0),
    "held: half": Arm("per request", 0.5),
    "held: all, as a custom op": Arm("custom op", 1.0),
    "projections": Arm("probes", 1.0, True),
    "all-layer means": Arm("means", 0.0, True),
    "watched: none held": Arm("watched", watch=True),
    "watched: all held": Arm("watched", 1.0, watch=True),
}
_TARGETS = {
    "plugin idle": _HELD,
    "held: global": _HELD,
    "held: all": _HELD,
    "held: half": _HELD,
    "watched: none held": _HELD,
    "watched: all held": _HELD,
    "all-layer means": _RECORDED,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Tables on stdout, progress on stderr."""
    asked = _asked(arguments)
    if asked.shape is not None:
        return _measure_shape(asked)
    console = Console(width=None if sys.stdout.isatty() else 140)
    machine, began = Machine.here(), time.monotonic()
    outcomes: list[Outcome] = []
    for mode in asked.mode or ["compiled", "eager"]:
        arms = {n: arm for n, arm in ARMS.items() if n == _PLAIN or n in (asked.arm or ARMS)}
        found = {requests: _Taken(arms) for requests in asked.requests or [32, 8, 1]}
        for start in range(asked.starts):
            with _engines(mode, arms) as engines:
                for requests, taken in found.items():
                    _measure(engines, taken, mode, requests, asked.repeats)
                if "means" in engines and start == 0 and not asked.throughput_only:
                    outcomes.append(_end_to_end(engines, mode, asked.repeats))
                    show_arms(console, outcomes[-1])
        for requests, taken in found.items():
            outcomes.append(taken.outcome(mode, requests))
            show_arms(console, outcomes[-1])
    show_summary(console, outcomes, machine)
    console.print(f"It took {(time.monotonic() - began) / 60:.1f} minutes.", highlight=False)
    return 0


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm", description=__doc__)
    parser.add_argument("--mode", action="append", choices=["compiled", "eager"])
    parser.add_argument("--arm", action="append", choices=ARMS, help="beside plain vLLM")
    parser.add_argument("--requests", action="append", type=int, help="at once; may be repeated")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument(
        "--starts",
        type=int,
        default=1,
        help="start all engines so many times: the same graph is not as fast in every process",
    )
    parser.add_argument("--throughput-only", action="store_true", help="not end to end")
    parser.add_argument(
        "--shape", choices=SHAPES, help="decode and prefill of a model of this shape, on a GPU"
    )
    parser.add_argument("--dummy", action="store_true", help="with made-up weights, of a --shape")
    parser.add_argument("--json", action="store_true", help="of a --shape, JSON on stdout")
    asked = parser.parse_args(arguments)
    if (asked.shape is not None) != asked.dummy or (asked.json and not asked.dummy):
        parser.error("--shape has made-up weights: say --shape NAME --dummy")
    return asked


def _measure_shape(asked: argparse.Namespace) -> int:
    """One table of decode and prefill at a shape. Status 3 where there is no room for it."""
    try:
        result = measure(
            SHAPES[asked.shape],
            mode=(asked.mode or ["compiled"])[0],
            rounds=asked.repeats,
            is_end_to_end=not asked.throughput_only,
        )
    except NotMeasuredError as error:
        print(error, file=sys.stderr)
        return 3
    if asked.json:
        print(json.dumps(result))
    else:
        show(Console(width=None if sys.stdout.isatty() else 140), result)
    return 0


@contextmanager
def _engines(mode: str, arms: Mapping[str, Arm]) -> Iterator[Mapping[str, Process]]:
    """All engines, started one after the other, since compiling takes all cores."""
    with ExitStack() as stack:
        found: dict[str, Process] = {}
        needed = {arm.engine for arm in arms.values()}
        for name, deployment in ((n, ENGINES[n]) for n in ENGINES if n in needed):
            began = time.monotonic()
            found[name] = Process("benchmarks.vllm.arm", json.dumps(deployment), mode)
            stack.callback(found[name].end)
            found[name].hear()
            line = f"{mode} engine `{name}` is up after {time.monotonic() - began:.0f} s"
            print(line, file=sys.stderr, flush=True)
        yield found


class _Taken:
    """What the arms took at so many requests, over all starts of their engines."""

    def __init__(self, arms: Mapping[str, Arm]) -> None:
        self.arms = arms
        self.rounds: dict[str, list[Measurement]] = {name: [] for name in arms}
        self.first: dict[str, list[float]] = {name: [] for name in arms}
        self.steps: dict[str, list[float]] = {name: [] for name in arms}
        self.tokens = 0

    def outcome(self, mode: str, requests: int) -> Outcome:
        return Outcome(
            f"vllm-{mode}-{requests}",
            f"smollm2, bfloat16, {mode}, {requests} requests at once",
            self.rounds,
            _comparisons(self.rounds, self.first, self.steps, mode),
            tokens=self.tokens,
        )


def _measure(
    engines: Mapping[str, Process], taken: _Taken, mode: str, requests: int, repeats: int
) -> None:
    def ask(name: str) -> dict[str, Any]:
        arm = taken.arms[name]
        return engines[arm.engine].ask(
            requests=requests, held=arm.held, record=arm.record, watch=arm.watch
        )

    def run(name: str) -> Measurement:
        found = ask(name)
        taken.first[name].append(found["first_token_s"])
        taken.steps[name].append(found["step_s"])
        taken.tokens = found["tokens"]
        return Measurement(found["wall_s"], found["cpu_s"])

    for name in taken.arms:  # the first round of an engine is slower than all others
        ask(name)
    arms = {name: (lambda name=name: run(name)) for name in taken.arms}
    title = f"vllm-{mode}-{requests}"
    rounds = in_turn(arms, repeats, lambda *done: narrate(title, *done))
    for name, found in rounds.items():
        taken.rounds[name].extend(found)


def _end_to_end(engines: Mapping[str, Process], mode: str, repeats: int) -> Outcome:
    """Answers with their means in one pass, and the usual way to come by both.

    Roles of the library asked its questions: prompts and lengths of answers are an extraction's,
    and they are read in the order of the prompts, in which vLLM gives answers back.
    """
    reader = Process("benchmarks.vllm.reader")
    reader.hear()

    def one_pass() -> Measurement:
        found = engines["means"].ask(requests=_TOGETHER, held=0.0, record=True, extracts=True)
        return Measurement(found["wall_s"], found["cpu_s"])

    def two_passes() -> Measurement:
        made = engines["plain"].ask(
            requests=_TOGETHER, held=0.0, record=False, give_texts=True, extracts=True
        )
        again = reader.ask(read=made["texts"])
        return Measurement(made["wall_s"] + again["wall_s"], made["cpu_s"] + again["cpu_s"])

    try:
        two_passes()
        arms = {"generate, then read": two_passes, "one pass": one_pass}
        title = f"vllm-{mode}-end-to-end"
        rounds = in_turn(arms, repeats, lambda *done: narrate(title, *done))
    finally:
        reader.end()
    faster = ratio_of(rounds, "wall_s", *arms)
    target = _TIMES_FASTER if mode == "compiled" else None
    return Outcome(
        title,
        f"smollm2, bfloat16, {mode}, {_TOGETHER} answers and their means at every layer",
        rounds,
        (Comparison("generate, then read / one pass, wall (times faster)", faster, target),),
    )


def _comparisons(
    rounds: Rounds,
    first: Mapping[str, Sequence[float]],
    steps: Mapping[str, Sequence[float]],
    mode: str,
) -> tuple[Comparison, ...]:
    plain = _PLAIN
    found = []
    for name in rounds:
        if name != plain:
            target = _TARGETS.get(name) if mode == "compiled" else None
            found.append(
                Comparison(
                    f"{name} / {plain}, wall", ratio_of(rounds, "wall_s", name, plain), target
                )
            )
            found.append(
                Comparison(f"{name} / {plain}, cpu", ratio_of(rounds, "cpu_s", name, plain))
            )
            # Of the fast quarter of an engine's steps, other work on the machine knows little.
            spread = ratios(steps[name], steps[plain])
            found.append(Comparison(f"{name} / {plain}, lower quartile of a step", spread))
            spread = ratios(first[name], first[plain])
            found.append(Comparison(f"{name} / {plain}, time to first token", spread))
    return tuple(found)


if __name__ == "__main__":
    sys.exit(main())
