"""A process that waits for rounds: one JSON line in, one JSON line out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


class Process:
    """An engine, or a reader, in a process of its own, idle between its rounds."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - written to until the process ends
        self.process = subprocess.Popen(
            [python, "-W", "ignore", "-m", module, *arguments],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def hear(self) -> dict[str, Any]:
        """The next line it says. Raises RuntimeError where it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            told = " ".join(map(str, self.process.args[1:]))  # type: ignore[index,union-attr]
            raise RuntimeError(f"python {told} ended, having said:\n{self._last_errors()}")
        return dict(json.loads(line))

    def ask(self, **work: Any) -> dict[str, Any]:
        """Its answer to one piece of work."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(work) + "\n")
        self.process.stdin.flush()
        return self.hear()

    def _last_errors(self) -> str:
        self.process.wait(60)
        self._errors.seek(0)
        return "".join(self._errors.readlines()[-40:])

    def end(self) -> None:
        """Let it finish."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
