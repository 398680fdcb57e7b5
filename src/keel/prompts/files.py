"""JSON records out of files that people write by hand. Knows nothing of roles or questions.

Whatever is wrong with a file comes out as one line that names file, line and key.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from keel.errors import MissingArtifactError, UsageError
from keel.store import parse_record, record_keys

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """One JSON object and where it stands."""

    where: str
    """File, and line where the file has a record per line."""
    stem: str
    """The file's name without its ending."""
    data: dict[str, Any]

    def read_as(self, kind: type[T], given: Mapping[str, Any] | None = None) -> T:
        """The dataclass that the record describes; `given` holds fields that no file may set.

        Raises UsageError naming the record's place and the first key that is wrong: an unknown key
        is an error, since a typo must not become a default.
        """
        try:
            return parse_record(kind, self.data, given)
        except ValidationError as error:
            known = [key for key in record_keys(kind) if key not in (given or {})]  # type: ignore[arg-type]
            raise UsageError(f"{self.where}: {_complaint(error, known)}") from None
        except UsageError as error:
            raise UsageError(f"{self.where}: {error}") from None


def read_json(path: Path) -> Record:
    """The one record of a JSON file."""
    return _record(str(path), path, read_text(path))


def read_jsonl(path: Path) -> list[Record]:
    """The records of a JSONL file; empty lines are passed over."""
    # Not splitlines(): it would also break at U+2028, which JSON allows inside a string.
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [_record(f"{path}, line {n}", path, line) for n, line in lines if line.strip()]


def read_csv(path: Path) -> list[Record]:
    """The rows of a CSV file by the names in its first line; empty rows are passed over."""
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    records = []
    try:
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if None in row:
                raise UsageError(
                    f"{where}: has more cells than the first line names; put quotes round commas"
                )
            present = {key: cell for key, cell in row.items() if cell is not None}
            records.append(Record(where, path.stem, present))
    except csv.Error as error:
        raise UsageError(
            f"{path}, line {rows.reader.line_num}: not CSV ({error}); mend it"
        ) from None
    return records


def read_set(path: Path, kind: type[T]) -> tuple[T, ...]:
    """The values of a JSONL file that has one of a kind per line."""
    return tuple(record.read_as(kind) for record in read_jsonl(path))


def read_text(path: Path) -> str:
    """A file's text, without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MissingArtifactError(
            f"cannot read {path}: {error.strerror}; give the path of a text file"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8 text"
        ) from None


def _record(where: str, path: Path, text: str) -> Record:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: not JSON ({error}); mend the file") from None
    if not isinstance(data, dict):
        raise UsageError(f"{where}: holds a {type(data).__name__}, expected an object {{...}}")
    return Record(where, path.stem, data)


def _complaint(error: ValidationError, known: list[str]) -> str:
    """The first thing that is wrong with a record, in one line."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    match first["type"]:
        case "value_error":
            return str(first["ctx"]["error"])
        case "extra_forbidden":
            complaint = f"unknown key {key!r}, rename or remove it"
        case "missing":
            complaint = f"key {key!r} is missing, add it"
        case _:
            complaint = f"{key!r} is {first['input']!r:.40}: {first['msg']}"
    return f"{complaint}; known keys: {', '.join(known)}"
