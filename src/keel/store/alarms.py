"""The file of an alarm for drift, `alarm.json`: plain numbers, the direction among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from keel.alarm import Alarm
from keel.store import layout
from keel.store.artefacts import FORMAT, check_format
from keel.store.batches import read_journal
from keel.store.files import append_lines, jsonl, read_json, reading, write_json
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


class AlarmWork:
    """What calibrating an alarm goes on with after an interruption; no part of the run.

    alarm/NAME.jsonl   rows of one stage, added to as they are made
    """

    def __init__(self, run: Path) -> None:
        self.path = run / layout.ALARM_WORK

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Rows that were kept under a name. A line torn by a kill is not counted."""
        return read_journal(self.path / f"{layout.plain_name(name)}.jsonl", dict)

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows to those under a name."""
        append_lines(self.path / f"{layout.plain_name(name)}.jsonl", jsonl(map(dict, rows)))
