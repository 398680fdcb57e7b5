"""A folder by which `keel serve` opens the server that it started, once a probe has passed.

All API servers of one vLLM look into it; it is readable by its user only. Knows no HTTP.
"""

from __future__ import annotations

import fcntl
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

VARIABLE = "KEEL_GATE"
"""Environment variable that names the folder to vLLM's processes."""


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens, as its own machine reaches it."""

    url: str
    uds: str | None = None
    """Path of a Unix socket, in place of the URL's host and port."""


@dataclass(frozen=True)
class FloorsChange:
    """Floors that a running server is to go over to."""

    number: int
    """How many changes there were, with this one."""
    floors: str
    """Path of the file that holds them."""
    setting: str | None
    """The default of requests that name none; None for the file's own."""


@dataclass(frozen=True)
class Gate:
    """Whether requests are let in, and by which key the probe is let in before."""

    folder: Path
    kept: IO[str] | None = field(default=None, repr=False, compare=False)
    """File that its keeper holds locked; None in other processes."""

    @classmethod
    def make(cls) -> Gate:
        """A new gate, closed; this process is its keeper, and it shuts when the process is gone."""
        folder = Path(tempfile.mkdtemp(prefix="keel-gate-"))
        (folder / "key").write_text(secrets.token_hex(32), encoding="utf-8")
        kept = (folder / "kept").open("w", encoding="utf-8")
        fcntl.flock(kept, fcntl.LOCK_EX)
        return cls(folder, kept)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Gate | None:
        """The gate that the environment names; None for a server that is not probed."""
        folder = environment.get(VARIABLE)
        return cls(Path(folder)) if folder else None

    @cached_property
    def key(self) -> str:
        """The secret by which the probe makes itself known."""
        return (self.folder / "key").read_text(encoding="utf-8")

    @property
    def is_open(self) -> bool:
        """Whether the last probe passed, and the process that probes is there."""
        return (self.folder / "open").exists() and self.has_keeper

    @property
    def has_keeper(self) -> bool:
        """Whether the process that made the gate lives: however it dies, its lock is let go."""
        try:
            with (self.folder / "kept").open(encoding="utf-8") as kept:
                fcntl.flock(kept, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def leave(self) -> None:
        """Shut the gate for good, as its keeper."""
        if self.kept is not None:
            self.kept.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait_until_left(self) -> None:
        """Return when the gate has no keeper any more."""
        with suppress(FileNotFoundError), (self.folder / "kept").open(encoding="utf-8") as kept:
            fcntl.flock(kept, fcntl.LOCK_SH)

    def open(self) -> None:
        """Let requests in."""
        (self.folder / "open").touch()

    @property
    def passed_s_ago(self) -> float | None:
        """Seconds since the last probe passed; None while the server is not open."""
        try:
            return max(0.0, time.time() - (self.folder / "open").stat().st_mtime)
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Turn health red and let no more requests in."""
        (self.folder / "open").unlink(missing_ok=True)

    def announce(self, address: ServerAddress) -> None:
        """Note where the server listens."""
        self._write("address", asdict(address))

    @property
    def address(self) -> ServerAddress | None:
        """Where the server listens; None before it does."""
        address = self._read("address")
        return None if address is None else ServerAddress(**address)

    def propose(self, change: FloorsChange) -> None:
        """Hand a change's floors to the process that probes."""
        (self.folder / "verdict").unlink(missing_ok=True)
        self._write("candidate", asdict(change))

    def withdraw(self) -> None:
        """Take the candidate back: it is no longer to be probed."""
        (self.folder / "candidate").unlink(missing_ok=True)

    @property
    def candidate(self) -> FloorsChange | None:
        """The change that is to be probed, if any."""
        change = self._read("candidate")
        return None if change is None else FloorsChange(**change)

    def go_over(self) -> bool:
        """Let the candidate's floors hold all requests from now on, in every process at once.

        False where it was withdrawn.
        """
        try:
            (self.folder / "candidate").replace(self.folder / "live")
        except FileNotFoundError:
            return False
        return True

    @property
    def live(self) -> FloorsChange | None:
        """The last change that was let through; None while there was none."""
        change = self._read("live")
        return None if change is None else FloorsChange(**change)

    def reject(self, number: int, reason: str) -> None:
        """Note why a change is not let through."""
        self._write("verdict", {"number": number, "reason": reason})
        self.withdraw()

    def verdict_on(self, number: int) -> str | None:
        """Why a change was not let through; None where it was not rejected."""
        verdict = self._read("verdict")
        return verdict["reason"] if verdict and verdict["number"] == number else None

    def _write(self, name: str, value: dict[str, Any]) -> None:
        scratch = self.folder / f"{name}-{secrets.token_hex(4)}"
        scratch.write_text(json.dumps(value), encoding="utf-8")
        scratch.replace(self.folder / name)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            text = (self.folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        value: dict[str, Any] = json.loads(text)
        return value

    def refuse(self, reason: str) -> None:
        """Note, in one line, why the server does not start; the first reason stays."""
        if self.reason is None:
            (self.folder / "refusal").write_text(reason, encoding="utf-8")

    @property
    def reason(self) -> str | None:
        """Why the server did not start; None where no reason was noted."""
        file = self.folder / "refusal"
        return file.read_text(encoding="utf-8") if file.exists() else None
