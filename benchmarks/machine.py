"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.children import threads


@dataclass(frozen=True)
class Machine:
    """Machine and software of one run."""

    cpu: str
    threads: int
    python: str
    torch: str
    transformers: str
    commit: str
    """Short hash of the source, `+` where it has changes; empty outside a checkout."""
    date: str
    load: float
    """Processes that wanted a core just before: near 0 on a quiet machine."""

    @classmethod
    def here(cls) -> Machine:
        """This one, now."""
        return cls(
            cpu=_cpu(),
            threads=threads(),
            python=platform.python_version(),
            torch=version("torch"),
            transformers=version("transformers"),
            commit=_commit(),
            date=datetime.now(UTC).date().isoformat(),
            load=round(os.getloadavg()[0], 1),
        )

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.threads} threads, Python {self.python}, torch {self.torch}, "
            f"transformers {self.transformers}, commit {self.commit or 'unknown'}, {self.date}"
        )


def _cpu() -> str:
    listed = Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*:\s*(.+)$", listed.read_text(), re.M) if listed.exists() else None
    )
    return found[1] if found else platform.processor() or platform.machine()


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
