"""Processes that a test starts and may kill. Each is forked from one in which all is loaded, for a
fresh interpreter takes longer to load torch and transformers than a tiny model to answer."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

LOADED = ("keel.cli", "keel.pipeline", "keel.report", "keel.engines.transformers.engine",
          "transformers.models.llama.modeling_llama", "transformers.generation.utils",
          "tests.pipeline.evaluation", "tests.pipeline.capability")  # fmt: skip


@dataclass
class Forked:
    """A function in a process of its own, its output and its complaints in files."""

    process: BaseProcess
    out: Path
    err: Path

    @classmethod
    def of(cls, function: Callable[..., Any], *arguments: Any, folder: Path) -> Forked:
        """Started in a folder, on as many threads as its test: how many add up a sum changes its
        last bits."""
        folder.mkdir(exist_ok=True)
        count = len(list(folder.parent.glob(".out-*")))
        out, err = (folder.parent / f".{name}-{count}" for name in ("out", "err"))
        for path in (out, err):
            path.touch()
        call = (function, arguments, dict(os.environ), torch.get_num_threads(), folder, out, err)
        process = _loaded().Process(target=_work, args=call)
        process.start()
        return cls(process, out, err)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.is_alive()

    def wait_for(self, claim: Callable[[], bool]) -> None:
        """Until it is so, or the process has ended."""
        while self.is_running and not claim():
            time.sleep(0.002)

    def wait_for_lines(self, count: int) -> None:
        """Until it has printed so many, or has ended."""
        self.wait_for(lambda: self.out.read_text().count("\n") >= count)

    def end(self, how: signal.Signals | None = None) -> tuple[int, str, str]:
        """Its exit code, output and complaints, after a signal or when it is done."""
        if how is not None and self.is_running:
            os.kill(self.pid, how)
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode, self.out.read_text(), self.err.read_text()


def unchecked(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives where no annotation is checked, which can take twenty times as long."""
    with ProcessPoolExecutor(1, mp_context=_loaded()) as pool:
        return pool.submit(function, *arguments).result()


def keel_command(*words: str) -> None:
    """A command line of Keel, to its exit."""
    from keel.cli import main

    main(words)


@cache
def _loaded() -> Any:
    """Whose processes are forked from a loaded one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LOADED))
    return context


def _work(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    threads: int,
    folder: Path,
    out: Path,
    err: Path,
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(threads)
    os.chdir(folder)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    function(*arguments)
