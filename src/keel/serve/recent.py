"""What a server's page shows of the last hour: turns by the minute, clients, the latest alarms.

In the file that all HTTP processes share. Numbers and names of settings; of clients a keyed hash.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from typing import Any

MINUTES = 60
_LATEST = 20
"""Alarmed conversations that are shown."""
_MOST_CLIENTS = 1000
_COUNTED = ("turns", "gaps", "alarms", "begun", "unread")
_MADE = (
    "CREATE TABLE IF NOT EXISTS minutes (minute INTEGER PRIMARY KEY,"
    + ", ".join(f" {name} REAL NOT NULL" for name in _COUNTED)
    + ")",
    "CREATE TABLE IF NOT EXISTS clients (setting TEXT, client BLOB, used REAL,"
    " PRIMARY KEY (setting, client)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS alarmed (entry INTEGER PRIMARY KEY AUTOINCREMENT, at REAL,"
    " shown TEXT)",
)
_ADDED = (
    f"INSERT INTO minutes VALUES (?{', ?' * len(_COUNTED)}) ON CONFLICT (minute) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _COUNTED)
)


class RecentTurns:
    """Turns of the last hour, and the conversations that alarmed last."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self.base = base
        self.minute = 0
        for line in _MADE:
            base.execute(line)

    def count(self, **counted: float) -> None:
        """Add to this minute's turns, gaps (their sum), alarms, conversations begun, or unread."""
        minute = int(time.time() // 60)
        self.base.execute(_ADDED, (minute, *(counted.get(name, 0.0) for name in _COUNTED)))
        if minute != self.minute:
            self.minute = minute
            self._forget(minute)

    def use(self, setting: str, client: bytes) -> None:
        """Note that a client, as the hash of its key, was answered under a setting."""
        self.base.execute(
            "INSERT OR REPLACE INTO clients VALUES (?, ?, ?)", (setting, client, time.time())
        )

    def show(self, entry: int | None, shown: Mapping[str, Any]) -> int:
        """Keep what is shown of an alarmed conversation, anew where it has an entry; the entry."""
        row = (entry, time.time(), json.dumps(shown))
        made = self.base.execute("INSERT OR REPLACE INTO alarmed VALUES (?, ?, ?)", row).lastrowid
        self.base.execute(
            "DELETE FROM alarmed WHERE entry NOT IN"
            " (SELECT entry FROM alarmed ORDER BY at DESC LIMIT ?)",
            (_LATEST,),
        )
        assert made is not None
        return made

    def minutes(self) -> list[dict[str, float | None]]:
        """What was counted in each of the last 60 minutes, the oldest first.

        `gaps` is a mean, None without turns.
        """
        this = int(time.time() // 60)
        rows = self.base.execute(
            f"SELECT minute, {', '.join(_COUNTED)} FROM minutes WHERE minute > ?", (this - MINUTES,)
        )
        counted = {row[0]: dict(zip(_COUNTED, row[1:], strict=True)) for row in rows}
        nothing = dict.fromkeys(_COUNTED, 0.0)
        return [
            {**each, "gaps": each["gaps"] / each["turns"] if each["turns"] else None}
            for minute in range(this - MINUTES + 1, this + 1)
            for each in [counted.get(minute, nothing)]
        ]

    def clients(self) -> dict[str, dict[str, float]]:
        """By setting how many clients were answered under it in the last hour, and how long ago."""
        rows = self.base.execute(
            "SELECT setting, COUNT(*), MAX(used) FROM clients WHERE used > ? GROUP BY setting",
            (time.time() - 60 * MINUTES,),
        )
        return {name: {"count": n, "s_ago": max(0.0, time.time() - used)} for name, n, used in rows}

    def alarmed(self) -> Iterator[dict[str, Any]]:
        """What was kept of the conversations that alarmed last, the newest first."""
        for entry, at, shown in self.base.execute("SELECT * FROM alarmed ORDER BY at DESC"):
            yield {"entry": entry, "at": at, **json.loads(shown)}

    def _forget(self, minute: int) -> None:
        self.base.execute("DELETE FROM minutes WHERE minute <= ?", (minute - MINUTES,))
        self.base.execute("DELETE FROM clients WHERE used < ?", (time.time() - 60 * MINUTES,))
        self.base.execute(
            "DELETE FROM clients WHERE (setting, client) NOT IN"
            " (SELECT setting, client FROM clients ORDER BY used DESC LIMIT ?)",
            (_MOST_CLIENTS,),
        )
