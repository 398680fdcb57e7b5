"""Judgements: one file of lines per judge, added to as the judge goes.

Appended, not replaced: rewriting a file of a hundred thousand judgements after every few would
take longer than judging. A line torn by a kill is not counted, and cut off by the next writer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from keel.errors import UsageError
from keel.store.atomic import append_lines, jsonl
from keel.store.layout import JUDGEMENTS, files_in, named_file
from keel.store.reading import reading
from keel.store.records import from_record, to_record
from keel.types import Judgement


def append_judgements(root: Path, judge: str, judgements: Iterable[Judgement]) -> None:
    """Add judgements; of one rollout the last one holds."""
    append_lines(root / named_file(JUDGEMENTS, judge), jsonl(map(to_record, judgements)))


def read_judgements(root: Path, judge: str | None = None) -> dict[str, Judgement]:
    """Judgements by rollout id, of that judge; None where the run has one judge or none.

    Raises UsageError when several judges are there and none was named.
    """
    path = _only_file(root) if judge is None else root / named_file(JUDGEMENTS, judge)
    if path is None or (judge is not None and not path.exists()):
        return {}
    with reading(path, "judgements, one per line"):
        lines = path.read_bytes().splitlines(keepends=True)
        whole = [from_record(Judgement, json.loads(x)) for x in lines if x.endswith(b"\n")]
    return {judgement.rollout_id: judgement for judgement in whole}


def _only_file(root: Path) -> Path | None:
    files = files_in(root, JUDGEMENTS)
    if len(files) > 1:
        raise UsageError(
            f"{root} has {len(files)} judges ({', '.join(f.stem for f in files)}); name one"
        )
    return files[0] if files else None
