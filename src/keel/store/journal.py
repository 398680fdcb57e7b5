"""Records that are kept while work goes on, so that it can go on after an interruption.

A journal is one file of lines, added to: rewriting a file of a hundred thousand judgements after
every few would take longer than judging. A line torn by a kill is not counted, and cut off by the
next writer. Batches are one file each, written whole: a batch counts when its file is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from keel.store.files import append_lines, jsonl, read_jsonl, reading, write_jsonl
from keel.store.layout import files_ending
from keel.store.records import from_record, to_record

T = TypeVar("T")


class Journal(Generic[T]):
    """One record per line, appended as work goes on."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self.path, self._kind = path, kind

    def append(self, values: Iterable[T]) -> None:
        """Add values at the end, and flush them to the disk."""
        append_lines(self.path, jsonl(map(to_record, values)))

    def read(self) -> list[T]:
        """The values in the order in which they were added; none where there is no file."""
        if not self.path.exists():
            return []
        with reading(self.path, f"{self._kind.__name__}, one per line"):
            lines = self.path.read_bytes().splitlines(keepends=True)
            records = [json.loads(line) for line in lines if line.endswith(b"\n")]
            return records if self._kind is dict else [from_record(self._kind, r) for r in records]


class Batches(Generic[T]):
    """Batches of records in `FOLDER/NAME-00000.jsonl`, one per line."""

    def __init__(self, folder: Path, kind: type[T], name: str = "batch") -> None:
        self._folder, self._kind, self._name = folder, kind, name

    def path(self, number: int) -> Path:
        """Where a batch is."""
        return self._folder / f"{self._name}-{number:05d}.jsonl"

    def committed(self) -> list[int]:
        """Numbers of the batches that are there, in order."""
        pattern = re.compile(rf"{self._name}-(\d{{5,}})")
        matches = (pattern.fullmatch(path.stem) for path in files_ending(self._folder, ".jsonl"))
        return sorted(int(match[1]) for match in matches if match)

    def write(self, number: int, records: Iterable[Any]) -> None:
        """Keep one batch: whole, or not counted."""
        write_jsonl(self.path(number), records)

    def read(self) -> Iterator[T]:
        """Every committed value, in the order of batches."""
        for number in self.committed():
            yield from self.read_batch(number)

    def read_batch(self, number: int) -> Iterator[T]:
        """The values of one batch."""
        path = self.path(number)
        for record in read_jsonl(path):
            with reading(path, f"one {self._kind.__name__} per line"):
                value = from_record(self._kind, record)
            yield value
