"""The files of alarms for drift: `alarm.json`, plain numbers, and what a watch goes on with."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from keel.alarm import Alarm
from keel.arrays import torch
from keel.errors import CorruptArtifactError, StaleArtifactError, StorageError
from keel.seeds import text_hash
from keel.store.artefacts import FORMAT, check_format
from keel.store.files import read_json, reading, write_json
from keel.store.records import from_record, to_record


def write_alarm(alarm: Alarm, path: Path, *, axis_sha256: str = "") -> None:
    """Write an alarm with the hash of the axis that it was made along."""
    direction = alarm.direction.detach().float().cpu().tolist()
    record = {"format": FORMAT, "axis": axis_sha256, "direction": direction}
    write_json(path, {**record, "value": to_record(alarm)})


def read_alarm(path: Path) -> tuple[Alarm, str]:
    """An alarm that `write_alarm` wrote, and the hash of its axis.

    Raises CorruptArtifactError where the file holds none, MissingArtifactError without a file.
    """
    record = read_json(path)
    with reading(path, "an alarm"):
        check_format(record, path)
        direction = torch.tensor(record["direction"], dtype=torch.float32)
        alarm = from_record(Alarm, record["value"], {"direction": direction})
        return alarm, str(record["axis"])


class WatchState:
    """Where each conversation of a watch stands, in an SQLite file, between calls and after a kill.

    Each turn is written before the next comes, with how far its file was read. Holds numbers and
    hashes, no ids and no text. Raises StaleArtifactError for a file of another alarm or rate,
    CorruptArtifactError for one that is no such file, StorageError where it cannot be written or
    another watch holds it.
    """

    def __init__(self, path: Path, *, alarm_sha256: str, rate: float) -> None:
        self.path = path
        owner = f"{alarm_sha256} at rate {rate:g}"
        try:
            self._file = sqlite3.connect(path, timeout=0, isolation_level=None)
            self._file.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._file.execute("BEGIN EXCLUSIVE")
            self._file.execute("CREATE TABLE IF NOT EXISTS watch (alarm TEXT)")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS states (id TEXT PRIMARY KEY, packed BLOB)"
            )
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS files (id TEXT PRIMARY KEY, lines INTEGER)"
            )
            known = self._file.execute("SELECT alarm FROM watch").fetchone()
            if known is None:
                self._file.execute("INSERT INTO watch VALUES (?)", (owner,))
            self._file.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"cannot keep the watch's state in {path}: {error}; give a file that can be "
                "written and that no other watch uses"
            ) from error
        except sqlite3.DatabaseError as error:
            raise CorruptArtifactError(
                f"{path} holds no state of a watch ({error}); give another file with --state"
            ) from error
        if known is not None and known[0] != owner:
            self._file.close()
            raise StaleArtifactError(
                f"{path} is of the alarm {known[0]}, expected {owner}; give another file with "
                "--state, or delete it to begin anew"
            )

    @staticmethod
    def key(name: str) -> str:
        """What a conversation, or a file's first line, is kept under."""
        return text_hash(name, 32)

    def states(self) -> dict[str, bytes]:
        """All conversations' states by key."""
        return dict(self._file.execute("SELECT id, packed FROM states"))

    def lines_read(self, first_line: str) -> int:
        """How many lines of the file that begins with this one were counted before."""
        query = "SELECT lines FROM files WHERE id = ?"
        row = self._file.execute(query, (self.key(first_line),)).fetchone()
        return 0 if row is None else int(row[0])

    def keep(
        self, key: str, packed: bytes, *, first_line: str | None = None, lines: int = 0
    ) -> None:
        """Write a conversation's state, and how many lines of its file are counted, as one."""
        try:
            self._file.execute("BEGIN")
            self._file.execute("REPLACE INTO states VALUES (?, ?)", (key, packed))
            if first_line is not None:
                self._file.execute(
                    "REPLACE INTO files VALUES (?, ?)", (self.key(first_line), lines)
                )
            self._file.execute("COMMIT")
        except sqlite3.Error as error:
            raise StorageError(
                f"cannot write the watch's state to {self.path}: {error}; make room, or give "
                "another file with --state"
            ) from error

    def close(self) -> None:
        """Give the file free for another watch."""
        self._file.close()
