"""What Keel's generation costs beside `model.generate`: plain, recorded, capped, and both.

On a CPU with the embedded model; on a GPU with random weights in the shape of a Llama of 1B
parameters, where each arm of Keel's also runs over a static cache, its steps captured as a graph.
"""

from __future__ import annotations

from benchmarks.children import in_child
from benchmarks.outcomes import AtMost, Comparison, Dial, Outcome, ratio_of, rounds_of

_TARGET = AtMost(1.0)
_STATIC_TARGET = AtMost(round(1 / 1.5, 3))
_BATCHES = (1, 16, 256)
_BAND = list(range(8, 14))


def run(dial: Dial) -> list[Outcome]:
    """An outcome for each batch."""
    return [_at(rows, dial) for rows in _BATCHES]


def _at(rows: int, dial: Dial) -> Outcome:
    on_cpu = dial.device == "cpu"
    new_tokens = (16 if dial.is_quick else 32) if on_cpu else (32 if dial.is_quick else 128)
    found = in_child(
        "benchmarks.arms.generating:generating",
        repeats=dial.rounds(usual=5, quick=2),
        rows=rows,
        new_tokens=new_tokens,
        band=_BAND,
        device=dial.device,
    )
    rounds = rounds_of(found["rounds"])

    ours = [arm for arm in rounds if arm != "generate"]
    comparisons = []
    for quantity in ("wall_s", "cpu_s"):
        named = quantity.removesuffix("_s")
        for arm in ours:
            target = _STATIC_TARGET if arm.startswith("static") else _TARGET
            ratio = ratio_of(rounds, quantity, arm, "generate")
            comparisons.append(Comparison(f"{arm} / generate, {named}", ratio, target))
        for arm in (arm for arm in ours if arm.startswith("Keel, ")):
            ratio = ratio_of(rounds, quantity, arm, "Keel")
            comparisons.append(Comparison(f"{arm} / Keel, {named}", ratio))
    setting = f"{found['dtype']}, {dial.device}, batch {rows} × {new_tokens} new tokens"
    return Outcome("generating", setting, rounds, tuple(comparisons), rows * new_tokens)
