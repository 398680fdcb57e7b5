"""One writer at a time in a run folder, also after a kill."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from keel.errors import RunLockedError
from keel.store.files import refused, remove_leftovers, write_json


class RunLock:
    """The lock of one run folder. The operating system frees it when its process ends, however.

    The same object can be locked again inside; another object of the same process cannot.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._owner = root / ".lock-owner.json"
        self._lock = FileLock(root / ".lock", thread_local=False)

    @contextmanager
    def acquired(self) -> Iterator[None]:
        """Acquires the lock; raises RunLockedError immediately if another process holds it."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
        except Timeout:
            raise RunLockedError(
                f"another process ({self._holder()}) works on {self._root}; "
                "wait for it, or choose another folder"
            ) from None
        except OSError as error:
            raise refused(self._root / ".lock", 0, error) from error
        try:
            if self._lock.lock_counter == 1:
                remove_leftovers(self._root)
                since = datetime.now(UTC).isoformat(timespec="seconds")
                owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
                write_json(self._owner, owner)
            yield
        finally:
            if self._lock.lock_counter == 1:
                self._owner.unlink(missing_ok=True)
            self._lock.release()

    def _holder(self) -> str:
        """Process and host that hold the lock, as far as they are written down."""
        with suppress(OSError, ValueError, KeyError):
            owner = json.loads(self._owner.read_bytes())
            return f"pid {owner['pid']} on {owner['host']}, since {owner['since']}"
        return "not yet known"
