"""Drift studies: what recording costs, what advancing together and kept prompts gain, analysis."""

from __future__ import annotations

from benchmarks.children import in_child
from benchmarks.measuring import Spread
from benchmarks.outcomes import AtLeast, AtMost, Comparison, Dial, Outcome, ratio_of, rounds_of

_ROWS = 32
_RECORDING = AtMost(1.05)
_TOGETHER = AtLeast(6)
_MEMORY = AtMost(1.0)
_ANALYSIS = AtMost(1.0)
_PEAK_BYTES, _ANALYSIS_S = 1.5e9, 20.0
_MESSAGES, _PERMUTATIONS = 1200, 99


def run(dial: Dial) -> list[Outcome]:
    """Conversations of some turns each way in one process, and the analysis in another."""
    turns, new_tokens = (2, 8) if dial.is_quick else (5, 32)
    found = in_child(
        "benchmarks.arms.studies:talking",
        repeats=dial.rounds(usual=3),
        rows=_ROWS,
        turns=turns,
        new_tokens=new_tokens,
    )
    rounds = rounds_of(found["rounds"])
    alone = ratio_of(rounds, "cpu_s", "one alone", "together")
    together = Spread(*(_ROWS * value for value in (alone.median, alone.low, alone.high)))
    given, computed = found["computed"]["together"]
    peak = found["peak_bytes"] / _PEAK_BYTES
    analysis = in_child(
        "benchmarks.arms.studies:analysing", messages=_MESSAGES, permutations=_PERMUTATIONS
    )
    share = analysis["seconds"] / _ANALYSIS_S
    comparisons = (
        Comparison(
            "recorded / not recorded, cpu",
            ratio_of(rounds, "cpu_s", "together, recorded", "together"),
            _RECORDING,
        ),
        Comparison(f"{_ROWS} together / one alone, tokens per cpu second", together, _TOGETHER),
        Comparison(
            "prompts computed whole / kept, cpu",
            ratio_of(rounds, "cpu_s", "together, prompts whole", "together"),
        ),
        Comparison("prompt tokens given / computed", Spread.of([given / computed])),
        Comparison("peak memory / 1.5 GB", Spread.of([peak]), _MEMORY),
        Comparison(
            f"analysis of {_MESSAGES} messages, {_PERMUTATIONS} permutations / 20 s",
            Spread.of([share]),
            _ANALYSIS,
        ),
    )
    setting = f"{found['dtype']}, {_ROWS} conversations of {turns} turns × {new_tokens} new tokens"
    tokens = _ROWS * turns * new_tokens
    return [Outcome("studies", setting, rounds, comparisons, tokens)]
