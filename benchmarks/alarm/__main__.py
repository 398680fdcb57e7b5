"""The alarm on real conversations: the fall of each pair, then what is detected of it.

python -m benchmarks.alarm RUN KEPT.jsonl --pairs 100   answer what is missing, then analyse
python -m benchmarks.alarm RUN KEPT.jsonl --pairs 0     analyse what is there
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.alarm.talking import ARMS, CHANGE, Talks, talk, talks_of
from keel import open_engine, open_run
from keel.alarm import Alarm, ConversationMeans, TurnMean, evidence_paths, fit_alarm
from keel.settings import STATISTICS
from keel.types import AssistantAxis

RATE = 0.05
SPLITS = 50
DRAWS = 2000
DROP = 0.8
"""Decided before the conversations were answered, as were the layers and the 3 turns."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one table per layer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alarm", description=__doc__)
    parser.add_argument("run")
    parser.add_argument("kept", type=Path)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--layers", type=int, nargs="+", default=[26, 20, 16, 14])
    given = parser.parse_args(arguments)
    run = open_run(given.run)
    if given.pairs:
        engine = open_engine(run.identity.model_id)
        talk(engine, run.axis, given.layers, given.pairs, given.kept, seed=0)
    talks = talks_of(given.kept)
    for index, layer in enumerate(talks.layers):
        print("\n".join(table(run.axis, talks, index, layer)), flush=True)
    return 0


def table(axis: AssistantAxis, talks: Talks, index: int, layer: int) -> list[str]:
    """The paired fall, and what each statistic detects within three turns of the change."""
    blank = Alarm(
        layer=layer,
        direction=axis.direction[layer].float(),
        zero=float(axis.role_projection[layer]),
        gap=float(axis.gap[layer]),
        expected=(1.0,),
        between=0.0,
        within=1.0,
        token=0.0,
        identity=axis.identity,
        rate=RATE,
        drop=DROP,
    )
    gaps = {arm: (talks.means_NTL[arm][:, :, index] - blank.zero) / blank.gap for arm in ARMS}
    fall_N = (gaps["default"] - gaps["changed"])[:, CHANGE:].mean(axis=1)
    error = 1.96 * fall_N.std(ddof=1) / np.sqrt(len(fall_N))
    levels = " ".join(f"{level:+.2f}" for level in gaps["default"].mean(axis=0))
    lines = [
        f"layer {layer}, {len(fall_N)} pairs; default by turn {levels}; paired fall "
        f"{fall_N.mean():.2f} ± {error:.2f}; {np.mean(fall_N > 0.5):.0%} fall by more than .5",
        "| statistic | false alarms | detected | minus a single turn |",
        "|---|---|---|---|",
    ]
    hits = {name: _split(blank, talks, index, gaps, name) for name in (*STATISTICS, "1 / rate")}
    for name, (wrong_N, right_N) in hits.items():
        apart_N = right_N - hits["turn"][1]
        lines.append(
            f"| {name} | {wrong_N.mean():.3f} | {_with_interval(right_N)} | "
            f"{_with_interval(apart_N)} |"
        )
    return lines


def _with_interval(values_N: np.ndarray) -> str:
    """A mean over pairs, with its interval by resampling pairs."""
    draws = np.random.default_rng(0).integers(len(values_N), size=(DRAWS, len(values_N)))
    low, high = np.percentile(values_N[draws].mean(axis=1), (2.5, 97.5))
    return f"{values_N.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def _split(
    blank: Alarm, talks: Talks, index: int, gaps: dict[str, np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Share of splits in which each pair alarmed: unchanged, and changed within three turns.

    Fitted and tuned on the default conversations of one half of the pairs, tried on the other.
    """
    count = len(gaps["default"])
    tokens = {arm: np.maximum(talks.tokens_NT[arm], 1) for arm in ARMS}
    wrong_N, right_N, tried_N = np.zeros(count), np.zeros(count), np.zeros(count)
    rng = np.random.default_rng(1)
    for _ in range(SPLITS):
        order = rng.permutation(count)
        known, new = order[: count // 2], order[count // 2 :]
        fitted = fit_alarm(blank, [_means(blank, talks, index, int(n)) for n in known])
        alarm = fitted
        if name not in ("mixture", "1 / rate"):
            alarm = replace(fitted, statistic=name, thresholds={f"{RATE:g}": 1.0}, horizon=5)
        paths = {arm: evidence_paths(alarm, gaps[arm], tokens[arm]) for arm in ARMS}
        highest = paths["default"][known].max(axis=1)
        at = 1 / RATE if name == "1 / rate" else float(np.quantile(highest, 1 - RATE))
        wrong_N[new] += (paths["default"][new] > at).any(axis=1)
        over = paths["changed"][new] > at
        right_N[new] += over[:, CHANGE:].any(axis=1) & ~over[:, :CHANGE].any(axis=1)
        tried_N[new] += 1
    return wrong_N / tried_N, right_N / tried_N


def _means(blank: Alarm, talks: Talks, index: int, pair: int) -> ConversationMeans:
    turns = []
    for turn, blocks in enumerate(talks.blocks["default"][pair]):
        eights = tuple(block[index] for block in blocks)
        mean = float(talks.means_NTL["default"][pair, turn, index])
        tokens = int(talks.tokens_NT["default"][pair, turn])
        turns.append(TurnMean(turn, mean, tokens, {"16": (), "8": eights}))
    return ConversationMeans(str(pair), tuple(turns))


if __name__ == "__main__":
    raise SystemExit(main())
