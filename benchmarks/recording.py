"""What it costs to record response means at every layer while generating."""

from __future__ import annotations

from benchmarks.children import in_child
from benchmarks.outcomes import AtMost, Comparison, Dial, Outcome, ratio_of, rounds_of

_TARGET = AtMost(1.03)
_NOTES = (
    "plain generate sorts the vocabulary to sample and Keel does not: that difference is in the "
    "ratio to it; the ratio to not recording is recording alone, with the last token's own pass",
)


def run(dial: Dial) -> list[Outcome]:
    """Generation with recording beside generation without, by Keel and by transformers."""
    rows, new_tokens = 32, 32 if dial.is_quick else 64
    found = in_child(
        "benchmarks.arms.generating:recording",
        repeats=dial.rounds(usual=5, quick=2),
        rows=rows,
        new_tokens=new_tokens,
    )
    rounds = rounds_of(found["rounds"])

    def compared(base: str, quantity: str, target: AtMost | None = None) -> Comparison:
        what = f"recording / {base}, {quantity.removesuffix('_s')}"
        return Comparison(what, ratio_of(rounds, quantity, "recording", base), target)

    comparisons = (
        compared("plain generate", "wall_s", _TARGET),
        compared("plain generate", "cpu_s"),
        compared("not recording", "wall_s"),
        compared("not recording", "cpu_s"),
    )
    setting = f"{found['dtype']}, batch {rows} × {new_tokens} new tokens"
    return [Outcome("recording", setting, rounds, comparisons, rows * new_tokens, _NOTES)]
