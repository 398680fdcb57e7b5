"""A folder by which `keel serve` opens the server that it started, once a probe has passed.

All API servers of one vLLM look into it; it is readable by its user only. Knows no HTTP.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

VARIABLE = "KEEL_GATE"
"""Environment variable that names the folder to vLLM's processes."""


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens, as its own machine reaches it."""

    url: str
    uds: str | None = None
    """Path of a Unix socket, in place of the URL's host and port."""


@dataclass(frozen=True)
class Gate:
    """Whether requests are let in, and by which key the probe is let in before."""

    folder: Path

    @classmethod
    def make(cls) -> Gate:
        """A new gate, closed."""
        gate = cls(Path(tempfile.mkdtemp(prefix="keel-gate-")))
        (gate.folder / "key").write_text(secrets.token_hex(32), encoding="utf-8")
        return gate

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Gate | None:
        """The gate that the environment names; None for a server that nobody probes."""
        folder = environment.get(VARIABLE)
        return cls(Path(folder)) if folder else None

    @cached_property
    def key(self) -> str:
        """The secret by which the probe makes itself known."""
        return (self.folder / "key").read_text(encoding="utf-8")

    @property
    def is_open(self) -> bool:
        """Whether the last probe passed."""
        return (self.folder / "open").exists()

    def open(self) -> None:
        """Let requests in."""
        (self.folder / "open").touch()

    def close(self) -> None:
        """Turn health red and let no more requests in."""
        (self.folder / "open").unlink(missing_ok=True)

    def announce(self, address: ServerAddress) -> None:
        """Note where the server listens."""
        scratch = self.folder / f"address-{secrets.token_hex(4)}"
        scratch.write_text(json.dumps([address.url, address.uds]), encoding="utf-8")
        scratch.replace(self.folder / "address")

    @property
    def address(self) -> ServerAddress | None:
        """Where the server listens; None before it does."""
        file = self.folder / "address"
        return (
            ServerAddress(*json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None
        )

    def refuse(self, reason: str) -> None:
        """Note, in one line, why the server does not start; the first reason stays."""
        if self.reason is None:
            (self.folder / "refusal").write_text(reason, encoding="utf-8")

    @property
    def reason(self) -> str | None:
        """Why the server did not start; None where nobody said."""
        file = self.folder / "refusal"
        return file.read_text(encoding="utf-8") if file.exists() else None
