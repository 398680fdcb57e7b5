"""Mean activations of given answers: Keel beside the reference's style and interp-engine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.children import in_child
from benchmarks.measuring import Measurement, Rounds, in_turn, narrate
from benchmarks.outcomes import AtLeast, AtMost, Comparison, Dial, Outcome, ratio_of
from benchmarks.peers import INTERP_ENGINE, PeerUnavailable, interp_python

_KEEL, _STYLE = "keel", "reference style"
_FASTER_THAN_STYLE, _FASTER_THAN_INTERP = AtLeast(2.3), AtLeast(1.3)
_OF_STYLES_MEMORY = AtMost(0.5)
_SAME_WORK = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest relative difference that rounding explains: attention sums in another order."""


def run(dial: Dial) -> list[Outcome]:
    """The same conversations through every arm, in float32 and in bfloat16."""
    python, notes = _peer()
    count = 16 if dial.is_quick else 32
    dtypes = ("float32",) if dial.is_quick else ("float32", "bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "given.json"))
        given = in_child("benchmarks.arms.texts:write_conversations", path=path, count=count)
        work = {"model": given["model"], "given": path}
        return [_outcome(dial, dtype, given, work, python, notes, folder) for dtype in dtypes]


def _peer() -> tuple[str | None, tuple[str, ...]]:
    """The interpreter that has interp-engine, or None and why there is none."""
    try:
        return interp_python(), ()
    except PeerUnavailable as problem:
        return None, (f"{INTERP_ENGINE} left out: {problem}",)


def _outcome(
    dial: Dial,
    dtype: str,
    given: Mapping[str, Any],
    work: Mapping[str, str],
    python: str | None,
    notes: tuple[str, ...],
    folder: str,
) -> Outcome:
    pass
