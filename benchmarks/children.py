"""Runs one function in a process of its own: fresh, or forked from a server that has imported.

Standard library only.

    found = in_child("benchmarks.arms.reading:by_keel", model=..., given=...)

The function gets keyword arguments and returns a value, both as JSON; what it prints on stderr
is shown as it comes.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.measuring import NotMeasuredError

_ROOT = Path(__file__).parents[1]


def in_child(function: str, /, python: str = sys.executable, **arguments: Any) -> Any:
    """What `module:function` returned in a process of its own.

    Raises NotMeasuredError when it did not return; what it said has been shown.
    """
    with tempfile.TemporaryDirectory() as folder:
        task, result = Path(folder, "task.json"), Path(folder, "result.json")
        task.write_text(json.dumps({"function": function, "arguments": arguments}))
        command = [python, "-W", "ignore", "-m", "benchmarks.children", str(task), str(result)]
        ended = subprocess.run(command, cwd=_ROOT, env=_environment(), stdout=sys.stderr)
        if ended.returncode != 0 or not result.exists():
            raise NotMeasuredError(f"{function} ended with status {ended.returncode}")
        return json.loads(result.read_text())


@dataclass(frozen=True)
class Ended:
    """How a forked process ended that gave nothing back."""

    reason: str


class ForkServer:
    """Forks processes from one that has imported `modules`: each starts clean, and at once."""

    def __init__(self, *modules: str) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*modules])

    def run(self, function: Callable[..., Any], *arguments: Any, limit_s: float) -> Any:
        """What a module's function returns in a process of its own, or `Ended`."""
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_send, args=(function, arguments, sender))
        process.start()
        sender.close()
        try:
            if not receiver.poll(limit_s):
                return Ended(f"not done after {limit_s:g} s")
            return receiver.recv()
        except EOFError:
            process.join()
            return Ended(f"its process ended with status {process.exitcode}")
        finally:
            process.kill()
            process.join()


def _send(function: Callable[..., Any], arguments: Sequence[Any], sender: Connection) -> None:
    sender.send(function(*arguments))


def threads() -> int:
    """Threads that every measured process works with: `OMP_NUM_THREADS`, or one a core."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() else _cores()


def _cores() -> int:
    """Cores this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else (os.cpu_count() or 1)


def _environment() -> dict[str, str]:
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return {**os.environ, **quiet, "OMP_NUM_THREADS": str(threads())}


def _main(task: str, result: str) -> None:
    asked = json.loads(Path(task).read_text())
    module, _, name = asked["function"].partition(":")
    found = getattr(importlib.import_module(module), name)(**asked["arguments"])
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
