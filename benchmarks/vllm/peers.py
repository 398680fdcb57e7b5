"""What holding costs in Keel and in two other libraries, each over its own plain vLLM, and who
notices when a floor does nothing. Each runs in the environment and with the vLLM that it asks for.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.arms.texts import MODEL
from benchmarks.machine import Machine
from benchmarks.measuring import Measurement, in_turn, narrate
from benchmarks.outcomes import Comparison, Outcome, ratio_of
from benchmarks.peers import PeerMissingError, interp_vllm_python, lens_python
from benchmarks.tables import show_arms, show_summary
from benchmarks.vllm.process import Process
from keel.engines.catalogue import locate

_REQUESTS = 32
_DOES_NOT_WORK = "steering code that does not work"
_NO_PLUGINS = {"VLLM_PLUGINS": "", "VLLM_LENS_DISABLE": "1"}


@dataclass(frozen=True)
class Peer:
    """A library and how its engine is started."""

    name: str
    python: Callable[[], str]
    vllm: str
    in_process: bool
    """Whether its engine may share the process; interp-engine's is asynchronous."""


PEERS = (
    Peer("interp-engine", interp_vllm_python, "0.28", in_process=False),
    Peer("vllm-lens", lens_python, "0.30", in_process=True),
    Peer("Keel", lambda: sys.executable, "0.32", in_process=True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Tables on stdout, progress on stderr."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm.peers", description=__doc__)
    parser.add_argument("--peer", action="append", choices=[peer.name for peer in PEERS])
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--requests", type=int, default=_REQUESTS, help="at once")
    parser.add_argument("--probes-only", action="store_true", help="no speed")
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    machine, outcomes, told = Machine.here(), [], {}
    for peer in PEERS:
        if peer.name in (asked.peer or [peer.name]):
            try:
                python = peer.python()
            except PeerMissingError as problem:
                console.print(f"{peer.name} is left out: {problem}")
                continue
            told[peer.name] = _probe(peer, python)
            if not asked.probes_only:
                outcomes.append(_measured(peer, python, asked.requests, asked.repeats))
                show_arms(console, outcomes[-1])
    if not asked.probes_only:
        show_summary(console, outcomes, machine)
    _show_probes(console, told)
    return 0


def _measured(peer: Peer, python: str, requests: int, repeats: int) -> Outcome:
    plain, held = f"plain vLLM {peer.vllm}", f"{peer.name}, held"
    # The other two cannot hold inside a compiled graph.
    mode = "compiled" if peer.name == "Keel" else "eager"
    starts = {
        f"{plain}, compiled": partial(_start, python, "plain", "compiled", _NO_PLUGINS),
        f"{plain}, eager": partial(_start, python, "plain", "eager", _NO_PLUGINS),
        held: partial(_start, python, peer.name, mode, _process(peer)),
    }
    work = {name: {"requests": requests, "held": int(name == held)} for name in starts}
    return _speed(peer.name, held, starts, work, repeats)


def _speed(
    title: str,
    held: str,
    starts: Mapping[str, Callable[[], Process]],
    work: Mapping[str, Mapping[str, Any]],
    repeats: int,
) -> Outcome:
    with _running(starts) as engines:

        def run(name: str) -> Measurement:
            found = engines[name].ask(**work[name])
            return Measurement(found["wall_s"], found["cpu_s"])

        for name in engines:  # the first round of an engine is slower than all others
            run(name)
        arms = {name: (lambda name=name: run(name)) for name in engines}
        rounds = in_turn(arms, repeats, lambda *done: narrate(title, *done))
    requests = work[held]["requests"]
    return Outcome(
        f"vllm-{title}",
        f"smollm2, bfloat16, {requests} requests at once, floors at five layers",
        rounds,
        tuple(
            Comparison(f"{held} / {plain}, wall", ratio_of(rounds, "wall_s", held, plain))
            for plain in rounds
            if plain != held
        ),
    )


@contextmanager
def _running(starts: Mapping[str, Callable[[], Process]]) -> Iterator[dict[str, Process]]:
    """All engines, started one after the other, since compiling takes all cores."""
    with ExitStack() as stack:
        found = {}
        for name, start in starts.items():
            began = time.monotonic()
            found[name] = start()
            stack.callback(found[name].end)
            found[name].hear()
            told = f"`{name}` is up after {time.monotonic() - began:.0f} s"
            print(told, file=sys.stderr, flush=True)
        yield found


def _probe(peer: Peer, python: str) -> dict[str, Any]:
    """What the engine does when asked for what cannot be, sound and with its steering broken."""
    found: dict[str, Any] = {}
    for mode in ("eager", "broken"):
        start = partial(_start, python, peer.name, mode, _process(peer))
        try:
            with _running({f"{peer.name}, {mode}": start}) as engines:
                for engine in engines.values():
                    found |= engine.ask(probe=mode)
        except RuntimeError:
            if mode != "broken":
                raise
            found[_DOES_NOT_WORK] = "the engine does not start"
    return found


def _start(python: str, name: str, mode: str, environment: Mapping[str, str]) -> Process:
    shared = {"PYTHONPATH": ".", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", **environment}
    return Process(
        "benchmarks.vllm.peer", name, str(locate(MODEL)), mode, python=python, environment=shared
    )


def _process(peer: Peer) -> dict[str, str]:
    return {} if peer.in_process else {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}


def _show_probes(console: Console, told: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table(title="Asked for a floor")
    table.add_column("")
    for name in told:
        table.add_column(name)
    rows = dict.fromkeys(question for found in told.values() for question in found)
    for question in rows:
        table.add_row(question, *(str(found.get(question, "–")) for found in told.values()))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
