"""A transcript file as values, each with its location: knows file types, not what the values mean.

JSON (one value, or a list of conversations), JSON Lines, CSV and TSV, Parquet, zips (Inspect's
`.eval`, and the archives in which ChatGPT and Claude export), and plain text with a speaker's name
at the start of each turn.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import filter as matching
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from keel.drift.transcripts.messages import (
    SPEAKER_KEYS,
    TEXT_KEYS,
    is_dump,
    is_speaker,
    kind_of,
    speaker_of,
)
from keel.errors import MissingArtifactError, MissingExtraError, UsageError

EXPECTED = (
    "expected JSON, JSON Lines, CSV, Parquet, an Inspect log, or text with `User:` and "
    "`Assistant:` at the start of lines"
)


@dataclass(frozen=True)
class Located:
    """A value of a file, or the error that its part of the file raised."""

    location: str
    value: Any = None
    error: UsageError | None = None


def values_in(path: Path) -> Iterator[Located]:
    """What stands in a file, one value per conversation where the file type says so.

    Raises MissingArtifactError where there is no file, UsageError where the file as a whole
    cannot be read.
    """
    if not path.exists():
        raise MissingArtifactError(f"no file {path}; give the path of a transcript")
    if (path / "plan.json").is_file():
        raise UsageError(f"{path} is a run, expected a transcript; give a file of conversations")
    if path.is_dir():
        raise UsageError(f"{path} is a folder, expected a file; {_named_in(path)}")
    yield from _as_trees(str(path), _stored(path))


def _stored(path: Path) -> Iterator[Located]:
    """The values one by one, as they stand in the file."""
    if zipfile.is_zipfile(path):
        yield from _of_zip(path)
    elif path.suffix == ".parquet":
        yield from _of_parquet(path)
    else:
        text = _decoded(path.read_bytes(), str(path))
        if path.suffix.lower() in (".csv", ".tsv"):
            yield from _of_table(text, str(path))
        else:
            yield from _of_text(text, str(path), is_lines=path.suffix in (".jsonl", ".ndjson"))


NODE_KEYS = {"message_id", "parent_id", "role", "text"}
"""What a row has that is a message of a tree, as OpenAssistant's are."""


def _is_node(row: Any) -> bool:
    """Whether a row is a message with a name of its own that says which one it answers, if any."""
    if not (isinstance(row, dict) and row.keys() >= NODE_KEYS):
        return False
    name, parent = row["message_id"], row["parent_id"]
    return isinstance(name, str | int) and name != "" and isinstance(parent, str | int | None)


def _as_trees(location: str, values: Iterable[Located]) -> Iterator[Located]:
    """Rows that each name the message they answer, as trees from the first on; others as is."""
    nodes: dict[Any, dict[str, Any]] = {}
    for each in values:
        row = each.value
        if not _is_node(row):
            yield each
            continue
        rank = row.get("rank")
        is_ranked = rank not in (None, "") and rank == rank  # NaN is not itself
        nodes[row["message_id"]] = {**row, "rank": rank if is_ranked else None, "replies": []}
    roots = [name for name, node in nodes.items() if node["parent_id"] not in nodes]
    for node in nodes.values():
        if node["parent_id"] in nodes:
            nodes[node["parent_id"]]["replies"].append(node)
    left, under = {*nodes}, [nodes[name] for name in roots]
    while under:
        node = under.pop()
        left.discard(node["message_id"])
        under += node["replies"]
    for name in roots:
        tree = {"message_tree_id": name, "prompt": nodes[name]}
        yield Located(f"{location} conversation {name}", tree)
    if left:
        fault = f"{location} has messages that hang on a circle of answers, {min(map(str, left))}"
        yield Located(location, error=UsageError(f"{fault} among them; export it again"))


def _named_in(folder: Path) -> str:
    """How to name the transcripts of a folder, of which most end alike."""
    endings = Counter(each.suffix for each in folder.iterdir() if each.suffix in _ENDINGS)
    if not endings:
        return f"it has none that ends in {', '.join(_ENDINGS)}; give the file of a conversation"
    return f"name its files: {folder}/*{endings.most_common(1)[0][0]}"


_ENDINGS = (".json", ".jsonl", ".txt", ".md", ".csv", ".tsv", ".parquet", ".eval", ".zip")

_BINARY = {
    b"GGUF": "a GGUF file, of a model or a control vector",
    b"\x93NUMPY": "a file of numpy's",
    b"SQLite format 3": "a database; write its conversations as JSON Lines",
    b"PK\x03\x04": "a zip archive; unpack it and give the file of conversations in it",
    b"\x1f\x8b": "packed with gzip; unpack it: gunzip",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
"""How files that people give by mistake begin, and what they are."""


def _decoded(content: bytes, location: str) -> str:
    """The text of a file: UTF-8, or UTF-16 where its first two bytes say so."""
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if kind := next((kind for mark, kind in _BINARY.items() if content.startswith(mark)), None):
        raise UsageError(f"{location} is {kind}, {EXPECTED}")
    if content[8:10] in (b'{"', b"{}") and content[7:8] == b"\0":  # after the length of its header
        raise UsageError(f"{location} is a safetensors file of weights or vectors, {EXPECTED}")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{location} is not UTF-8 at byte {error.start}, {EXPECTED}; convert it to UTF-8"
        ) from None
    if not text.strip():
        raise UsageError(f"{location} is empty, expected a conversation; save the transcript again")
    return text


def _of_text(text: str, location: str, *, is_lines: bool) -> Iterator[Located]:
    """Values of JSON Lines, known by name or by looks, of JSON, or of plain text."""
    if is_lines or _is_lines(text):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield from _parsed(line, f"{location} line {number}")
        return
    if not _JSON.match(text) and (spoken := _spoken(text, location)):
        yield Located(location, spoken)
        return
    if re.match(r"\s*<(!doctype|html|\?xml)", text, re.I):
        raise UsageError(
            f"{location} is a page, {EXPECTED}; give the conversations.json of the export, or save "
            "the page as such a text"
        )
    if not _JSON.match(text) and Path(location).suffix != ".json":
        raise UsageError(
            f"{location} has no line that begins with User: or Assistant:, {EXPECTED}; write there "
            "who speaks"
        )
    for whole in _parsed(text, location):
        # A list is a conversation's messages, or conversations; an empty list has no message.
        listed = whole.value
        if not isinstance(listed, list) or not listed or _is_message(listed[0]):
            yield whole
            continue
        for number, value in enumerate(listed, 1):
            yield Located(f"{location} conversation {number}", value)


def _is_message(value: Any) -> bool:
    """Whether a list that begins with it is one conversation: it names a speaker, not messages."""
    if not isinstance(value, dict) or "messages" in value:
        return False
    kind = value.get("type")
    is_langchain = (
        isinstance(kind, str) and is_speaker(kind) and bool({"content", "data"} & {*value})
    )
    return is_langchain or is_dump(value) or "role" in value or "from" in value


def _is_lines(text: str) -> bool:
    """Whether the text is JSON Lines: its first line is whole, and more follow."""
    first, _, rest = text.strip().partition("\n")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return bool(rest.strip())


def _parsed(text: str, location: str) -> Iterator[Located]:
    try:
        yield Located(location, json.loads(text))
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} column {error.colno}"
        column = line if "\n" in text else f"column {error.colno}"
        fault = f"{location} is not valid JSON at {column}: {error.msg}; {EXPECTED}; mend it there"
        yield Located(location, error=UsageError(fault))
    except (ValueError, RecursionError) as error:
        fault = f"{location} cannot be read as JSON: {error}; mend the file"
        yield Located(location, error=UsageError(fault))


_SPOKEN = re.compile(
    r"^(?:\[[^\]\n]*\]|[#>*_\s-])*([^\W\d_]+)(?: said)?\s*(?:\*\*|__)?[:：](?:\*\*|__)?[ \t]*", re.M
)
"""Starts of lines: `User:`, `**User:**`, `## Assistant:`, `[10:02] User:`, `用户：`."""
_HEADED = re.compile(r"^#+[ \t]*(?:\*\*)?([^\W\d_]+)(?:\*\*)?[ \t]*$", re.M)
"""`## User` on a line of its own, as pages are saved in Markdown."""
_NAMED = re.compile(r"^(?:\[[^\]\n]*\]|[#>*_\s-])*([^\W\d_][^:：\n]{0,29}?)\s*[:：]", re.M)
"""Whoever stands before a colon."""


_JSON = re.compile(r"\s*(\{|\[\s*[\[{\"\]])")
"""How JSON begins; a time in brackets does not."""


def _spoken(text: str, location: str) -> dict[str, Any] | None:
    """Messages of a plain text, each from its speaker's name on; None where nobody is named.

    Raises UsageError where the user, or everybody, has a name that does not say who speaks.
    """
    starts = [match for match in _SPOKEN.finditer(text) if is_speaker(match[1])]
    if not starts:
        starts = [match for match in _HEADED.finditer(text) if is_speaker(match[1])]
    speakers = {speaker_of(match[1]) for match in starts}
    preamble = text[: starts[0].start()] if starts else text
    if speakers <= {"assistant"} and (names := dict.fromkeys(_NAMED.findall(preamble))):
        raise UsageError(
            f"{location} has {', '.join(map(repr, [*names][:4]))} before a colon, expected words "
            "that say who speaks; write User: and Assistant: there"
        )
    if not starts:
        return None
    ends = [*(match.start() for match in starts[1:]), len(text)]
    messages = [
        {"role": match[1], "content": text[match.end() : end].strip()}
        for match, end in zip(starts, ends, strict=True)
    ]
    return {"preamble to the text": preamble.strip(), "messages": messages}


def _delimited(text: str) -> tuple[str, str]:
    """A table's text and the separator of its cells.

    The separator is what Excel says above the table, or what most of its header has; Excel writes
    semicolons where a comma is the decimal sign.
    """
    first, _, rest = text.partition("\n")
    if first.strip()[:-1].lower() == "sep=":
        return rest, first.strip()[-1]
    return text, max(",;\t", key=first.count)


def _of_table(text: str, location: str) -> Iterator[Located]:
    """A value per row; cells that hold JSON are parsed, unless a row is a message."""
    text, delimiter = _delimited(text)
    former = csv.field_size_limit(2**31 - 1)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = list(reader)
    except csv.Error as error:
        raise UsageError(f"{location} cannot be read as a table: {error}; mend it") from None
    finally:
        csv.field_size_limit(former)
    columns = list(reader.fieldnames or [])
    lower = {name: name.strip().lower() for name in columns if name}
    rows = [{lower[name]: cell for name, cell in row.items() if name} for row in rows]
    if not rows:
        raise UsageError(f"{location} has no rows under its header, expected messages; save again")
    names = set(lower.values())
    is_turns = all(names & {*keys} for keys in (SPEAKER_KEYS, TEXT_KEYS)) and not names >= NODE_KEYS
    for number, row in enumerate(rows, 2):
        value = row if is_turns else {key: _cell(cell) for key, cell in row.items()}
        yield Located(f"{location} row {number}", value)


def _cell(text: Any) -> Any:
    """A cell that holds messages as JSON, parsed; any other as it is."""
    if isinstance(text, str) and text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _of_parquet(path: Path) -> Iterator[Located]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtraError(
            f"{path} needs pyarrow to be read; pip install pyarrow, or save it as JSON Lines"
        ) from error
    try:
        rows = (
            row for batch in parquet.ParquetFile(path).iter_batches() for row in batch.to_pylist()
        )
        for number, row in enumerate(rows, 1):
            yield Located(f"{path} row {number}", row)
    except ArrowException as error:
        raise UsageError(f"{path} cannot be read as Parquet: {error}; fetch it again") from None


_PACKED = {
    "*data.pkl": f"a file of torch's tensors, {EXPECTED}",
    "*.npy": f"a file of numpy's arrays, {EXPECTED}",
    "xl/workbook.xml": "an Excel workbook; save its sheet as CSV",
    "word/document.xml": "a Word document; save it as plain text",
}
"""What zips hold that people give by mistake, and what these are."""
_IN_ZIPS = ("samples/*.json", "conversations*.json", "*/conversations*.json")


def _of_zip(path: Path) -> Iterator[Located]:
    """The samples of an Inspect log, or the conversations of an export."""
    with zipfile.ZipFile(path) as archive:
        inside = archive.namelist()
        names = [n for n in inside if any(fnmatch(n, glob) for glob in _IN_ZIPS)]
        if kind := next((kind for glob, kind in _PACKED.items() if matching(inside, glob)), None):
            raise UsageError(f"{path} is {kind}")
        if not names:
            raise UsageError(
                f"{path} holds neither samples/*.json (an Inspect log) nor conversations.json (an "
                "export); unpack it and give the file that has the conversations"
            )
        for name in names:
            location = f"{path} {name}"
            try:
                content = archive.read(name)
            except (NotImplementedError, zipfile.BadZipFile) as error:
                raise UsageError(
                    f"{location} cannot be unpacked: {error}; as JSON it can: inspect log convert "
                    f"--to json --output-dir logs {path}"
                ) from None
            yield from _of_text(_decoded(content, location), location, is_lines=False)


def described(value: Any) -> str:
    """A value that is no conversation, in words for an error."""
    if not isinstance(value, dict):
        return kind_of(value)
    return "keys " + ", ".join(map(repr, list(value)[:6])) if value else "no keys"
