"""What it costs to hold a model with floors on a band of six layers while it generates."""

from __future__ import annotations

from benchmarks.children import in_child
from benchmarks.outcomes import AtMost, Comparison, Dial, Outcome, ratio_of, rounds_of

_TARGET = AtMost(1.02)
_BAND = list(range(18, 24))


def run(dial: Dial) -> list[Outcome]:
    """Capped generation beside uncapped, and beside the shortest hook that caps."""
    rows, new_tokens = 16, 32 if dial.is_quick else 64
    found = in_child(
        "benchmarks.arms.generating:capping",
        repeats=dial.rounds(usual=7, quick=2),
        rows=rows,
        new_tokens=new_tokens,
        band=_BAND,
    )
    rounds = rounds_of(found["rounds"])

    def compared(arm: str, quantity: str, target: AtMost | None = None) -> Comparison:
        what = f"{arm} / uncapped, {quantity.removesuffix('_s')}"
        return Comparison(what, ratio_of(rounds, quantity, arm, "uncapped"), target)

    comparisons = (
        compared("capped", "wall_s", _TARGET),
        compared("capped", "cpu_s"),
        compared("plain hook", "wall_s"),
        compared("plain hook", "cpu_s"),
    )
    setting = (
        f"{found['dtype']}, batch {rows} × {new_tokens} new tokens, "
        f"greedy, layers {_BAND[0]} to {_BAND[-1]}"
    )
    notes = (f"the floors moved {found['firing']:.0%} of all (token, layer) slots",)
    return [Outcome("capping", setting, rounds, comparisons, rows * new_tokens, notes)]
