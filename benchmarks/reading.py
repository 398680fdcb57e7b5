"""Mean activations of given answers: Keel beside the reference's style and interp-engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.children import in_child
from benchmarks.measuring import Measurement, NotMeasuredError, Rounds, in_turn, narrate
from benchmarks.outcomes import AtLeast, AtMost, Comparison, Dial, Outcome, ratio_of
from benchmarks.peers import INTERP_ENGINE, PeerMissingError, interp_python

_KEEL, _STYLE, _INTERP = "keel", "reference style", INTERP_ENGINE.replace("==", " ")
_TIMES_FASTER = {_STYLE: AtLeast(2.3), _INTERP: AtLeast(1.3)}
_MEMORY = {_STYLE: AtMost(0.5), _INTERP: None}
_SAME = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest relative difference that rounding explains: the arms add in different orders."""


@dataclass(frozen=True)
class _Arm:
    function: str
    python: dict[str, str]
    """Another interpreter than ours, where the arm needs one."""


@dataclass(frozen=True)
class _Given:
    """The conversations, as a file, and how long they are."""

    folder: Path
    model: str
    lengths: Sequence[int]
    turns: int
    dtype: str
    """What Keel takes by itself: float32 where bfloat16 is slow."""

    @property
    def path(self) -> Path:
        return self.folder / "given.json"

    def found(self, arm: str) -> Path:
        """Where an arm writes its means."""
        return self.folder / f"{arm.split()[0]}.npy"


def run(dial: Dial) -> list[Outcome]:
    """The same conversations through every arm, in float32 and, where it is fast, bfloat16."""
    arms, notes = _arms()
    with tempfile.TemporaryDirectory() as folder:
        given = _write(Path(folder), count=16 if dial.is_quick else 32)
        dtypes = ["float32"] if dial.is_quick else sorted({"float32", given.dtype}, reverse=True)
        return [_outcome(dial, dtype, given, arms, notes) for dtype in dtypes]


def largest_difference(means: np.ndarray, others: np.ndarray) -> float:
    """Largest ‖a − b‖ / ‖b‖ over turns and layers of two [turn, layer, hidden]."""
    apart = np.linalg.norm(means - others, axis=-1)
    return float((apart / np.linalg.norm(others, axis=-1)).max())


def _arms() -> tuple[dict[str, _Arm], tuple[str, ...]]:
    """The arms that can run here, and why one cannot."""
    arms = {
        _KEEL: _Arm("benchmarks.arms.reading:by_keel", {}),
        _STYLE: _Arm("benchmarks.arms.reading:by_reference_style", {}),
    }
    try:
        python = {"python": interp_python()}
    except PeerMissingError as problem:
        return arms, (f"{_INTERP} left out: {problem}",)
    return {**arms, _INTERP: _Arm("benchmarks.arms.interp_engine:by_interp_engine", python)}, ()


def _write(folder: Path, count: int) -> _Given:
    path = str(folder / "given.json")
    made = in_child("benchmarks.arms.texts:write_conversations", path=path, count=count)
    return _Given(folder, made["model"], made["lengths"], made["turns"], made["dtype"])


def _outcome(
    dial: Dial, dtype: str, given: _Given, arms: dict[str, _Arm], notes: tuple[str, ...]
) -> Outcome:
    work = {name: _work(name, arm, given, dtype) for name, arm in arms.items()}
    name = f"reading, {dtype}"
    rounds = in_turn(work, dial.rounds(usual=3), lambda *done: narrate(name, *done))
    others = [arm for arm in arms if arm != _KEEL]
    notes = (*notes, *(_agreement(given, arm, dtype) for arm in others))
    tokens = sum(given.lengths)
    setting = (
        f"{dtype}, {len(given.lengths)} conversations of {min(given.lengths)} to "
        f"{max(given.lengths)} tokens, {given.turns} answers, {tokens} tokens in all"
    )
    compared = tuple(one for arm in others for one in _comparisons(rounds, arm))
    return Outcome("reading", setting, rounds, compared, tokens, notes)


def _work(name: str, arm: _Arm, given: _Given, dtype: str) -> Callable[[], Measurement]:
    where = {"model": given.model, "given": str(given.path), "found": str(given.found(name))}
    child = partial(in_child, arm.function, **arm.python, **where, dtype=dtype)
    return lambda: Measurement(**child())


def _agreement(given: _Given, arm: str, dtype: str) -> str:
    """How far an arm's means are from ours. Raises NotMeasuredError when it is another result."""
    apart = largest_difference(np.load(given.found(_KEEL)), np.load(given.found(arm)))
    if not apart <= _SAME[dtype]:
        raise NotMeasuredError(
            f"means of {_KEEL} and {arm} differ by {apart:.2g} in {dtype}, expected at most "
            f"{_SAME[dtype]:g}: they do not do the same work"
        )
    return f"means of {_KEEL} and {arm} agree within {apart:.1g} (relative)"


def _comparisons(rounds: Rounds, arm: str) -> list[Comparison]:
    faster = ratio_of(rounds, "cpu_s", arm, _KEEL)
    return [
        Comparison(f"{arm} / {_KEEL}, cpu (times faster)", faster, _TIMES_FASTER[arm]),
        Comparison(f"{arm} / {_KEEL}, wall", ratio_of(rounds, "wall_s", arm, _KEEL)),
        Comparison(
            f"{_KEEL} / {arm}, peak memory",
            ratio_of(rounds, "peak_bytes", _KEEL, arm),
            _MEMORY[arm],
        ),
        Comparison(
            f"{_KEEL} / {arm}, memory beyond the model",
            ratio_of(rounds, "working_bytes", _KEEL, arm),
        ),
    ]
