"""Whether memory stays as it is however many rollouts an extraction makes."""

from __future__ import annotations

from benchmarks.children import in_child
from benchmarks.measuring import Measurement, in_turn, narrate
from benchmarks.outcomes import AtMost, Comparison, Dial, Outcome, ratio_of

_TARGET = AtMost(1.05)
_ROLES = 20
_ASKED = _ROLES + 5
"""Rollouts a question: by each role, and by the default under its five prompts."""


def run(dial: Dial) -> list[Outcome]:
    """Peak memory of a whole extraction, and of one ten times (quick: four times) as long."""
    few, many = (2, 8) if dial.is_quick else (4, 40)
    rows, new_tokens = (25, 4) if dial.is_quick else (25, 8)
    dtypes: set[str] = set()

    def measure(questions: int) -> Measurement:
        found = in_child(
            "benchmarks.arms.extracting:extraction",
            roles=_ROLES,
            questions=questions,
            rows=rows,
            new_tokens=new_tokens,
        )
        assert found["rollouts"] == questions * _ASKED
        dtypes.add(found["dtype"])
        return Measurement(**found["measurement"])

    long, short = f"{many * _ASKED} rollouts", f"{few * _ASKED} rollouts"
    arms = {short: lambda: measure(few), long: lambda: measure(many)}
    rounds = in_turn(arms, dial.rounds(usual=2), lambda *done: narrate("memory", *done))
    peaks = ratio_of(rounds, "peak_bytes", long, short)
    comparisons = (Comparison(f"{long} / {short}, peak memory", peaks, _TARGET),)
    setting = f"{', '.join(dtypes)}, batches of {rows} × {new_tokens} new tokens"
    return [Outcome("memory", setting, rounds, comparisons)]
