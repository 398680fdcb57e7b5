"""The reference implementation's prompt files, where they lie beside the checkout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REFERENCE = Path(__file__).resolve().parents[3] / "shared/data/reference"
NEEDS_REFERENCE = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference's prompt files are not beside the checkout"
)


def reference_texts() -> Iterator[str]:
    """Every string in them."""
    for path in sorted(REFERENCE.rglob("*.json*")):
        lines = "\n" if path.suffix == ".jsonl" else "\0"
        for line in path.read_text(encoding="utf-8").split(lines):
            if line.strip():
                yield from _strings(json.loads(line))


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _strings(item)
        case dict():
            for item in value.values():
                yield from _strings(item)
