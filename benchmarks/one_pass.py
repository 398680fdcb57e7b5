"""Answers with their means in one pass, beside the usual two: generate, then read again."""

from __future__ import annotations

from benchmarks.children import in_child
from benchmarks.measuring import Measurement, in_turn, narrate
from benchmarks.outcomes import Comparison, Dial, Outcome, ratio_of

_ROWS = 32


def run(dial: Dial) -> list[Outcome]:
    """Time and memory of both ways, each time in a fresh process."""
    new_tokens = 32 if dial.is_quick else 64
    dtypes: set[str] = set()

    def measure(function: str) -> Measurement:
        where = f"benchmarks.arms.generating:{function}"
        found = in_child(where, rows=_ROWS, new_tokens=new_tokens)
        dtypes.add(found["dtype"])
        return Measurement(**found["measurement"])

    arms = {
        "one pass": lambda: measure("one_pass"),
        "two passes": lambda: measure("two_passes"),
    }
    rounds = in_turn(arms, dial.rounds(usual=3), lambda *done: narrate("one_pass", *done))
    comparisons = tuple(
        Comparison(f"one pass / two passes, {what}", ratio_of(rounds, quantity, *arms))
        for what, quantity in (
            ("wall", "wall_s"),
            ("cpu", "cpu_s"),
            ("peak memory", "peak_bytes"),
            ("memory beyond the model", "working_bytes"),
        )
    )
    setting = f"{', '.join(dtypes)}, batch {_ROWS} × {new_tokens} new tokens"
    return [Outcome("one_pass", setting, rounds, comparisons, _ROWS * new_tokens)]
