"""Environments of the libraries that Keel is measured beside, made on first use."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

INTERP_ENGINE = "interp-engine==1.14.2"
_TIMEOUT_S = 1800


class PeerMissingError(RuntimeError):
    """The library cannot be installed here; the benchmark goes on without it."""


def interp_python() -> str:
    """The interpreter of an environment with interp-engine and our own torch and transformers.

    It lies in the folder `KEEL_BENCH_CACHE`, or in Keel's cache in the user's home.
    Raises PeerMissingError with the installer's last words.
    """
    folder = _cache()
    python, mark = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(_requirements())
    if not mark.exists() or mark.read_text() != wanted or not python.exists():
        print(f"installing {INTERP_ENGINE} into {folder}", file=sys.stderr, flush=True)
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(python), "-m", "pip", "install", "-q", *_requirements())
        _run(str(python), "-c", "import interp_engine")
        mark.write_text(wanted)
    return str(python)


def _requirements() -> list[str]:
    """What goes in: the same torch and transformers, so that only the libraries differ."""
    torch = version("torch").partition("+")[0]
    transformers = version("transformers")
    return [INTERP_ENGINE, f"torch=={torch}", f"transformers=={transformers}", "accelerate"]


def _cache() -> Path:
    given = os.environ.get("KEEL_BENCH_CACHE")
    # A folder of our own inside the one given: what stands there is wiped before an installation.
    return Path(given) / "interp" if given else Path.home() / ".cache" / "keel" / "bench-interp"


def _run(*command: str) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise PeerMissingError(str(problem)) from problem
    if ended.returncode != 0:
        words = (ended.stderr or ended.stdout).strip().splitlines() or ["no words"]
        raise PeerMissingError(f"`{' '.join(command[1:4])}` failed: {words[-1][:200]}")
