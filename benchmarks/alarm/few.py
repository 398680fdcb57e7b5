"""Alarms fitted to few planted conversations: how often they are wrong, and what they detect.

python -m benchmarks.alarm.few   a table, in some minutes
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from keel.alarm import (
    Alarm,
    ConversationMeans,
    TurnMean,
    detection,
    estimated,
    evidence_paths,
    planted,
    tuned,
)
from keel.types import ModelIdentity

TURNS, LONGER, CHANGE = 6, 12, 5
"""Turns of the conversations fitted to; of those tried; 0-based turn of their change."""
FRESH = 1000
TRUTH = Alarm(
    layer=1,
    direction=torch.tensor([0.0, 1.0, 0.0]),
    zero=0.0,
    gap=1.0,
    expected=(1.2, 0.6, 0.25, 0.15, 0.1, 0.1),
    between=0.35,
    within=0.45,
    token=1.8,
    identity=ModelIdentity("planted", 4, 3),
)


@dataclass(frozen=True)
class RateOfFits:
    """Over alarms fitted to as many conversations each."""

    wrong_F: np.ndarray
    """Share of fresh default conversations that ever alarm, by fit."""
    detected_F: np.ndarray
    """Share of changed ones detected, of those without an alarm before the change."""

    @property
    def wrong(self) -> float:
        """Mean over fits."""
        return float(self.wrong_F.mean())

    @property
    def error(self) -> float:
        """Standard error of that mean."""
        return float(self.wrong_F.std(ddof=1) / np.sqrt(len(self.wrong_F)))


def rate_of_fits(truth: Alarm, conversations: int, fits: int, *, seed: int) -> RateOfFits:
    """Alarms fitted to planted conversations, each tried on 1,000 fresh ones of 12 turns."""
    rng = np.random.default_rng([seed, conversations])
    wrong, detected = [], []
    for _ in range(fits):
        alarm = estimated(truth, _talks(truth, conversations, rng), horizon=LONGER)[0]
        tokens_NT = rng.integers(16, 80, (FRESH, LONGER))
        first = int(rng.integers(1 << 31))
        same, changed = (
            evidence_paths(alarm, planted(truth, tokens_NT, seed=first, change=at), tokens_NT)
            >= alarm.threshold()
            for at in (None, CHANGE)
        )
        wrong.append(same.any(axis=1).mean())
        clean_N = ~changed[:, :CHANGE].any(axis=1)
        detected.append(changed[clean_N, CHANGE:].any(axis=1).mean())
    return RateOfFits(np.array(wrong), np.array(detected))


def detected_knowing(truth: Alarm) -> float:
    """What an alarm detects whose parameters are the true ones."""
    return detection(tuned(truth, horizon=LONGER, tokens=48), tokens=48, turns=LONGER).share


def of_statistic(statistic: str, rate: float) -> Alarm:
    """The planted truth, with a statistic and a rate."""
    if statistic == "mixture":
        return replace(TRUTH, rate=rate)
    thresholds = {f"{rate:g}": 1.0}
    return replace(TRUTH, rate=rate, statistic=statistic, thresholds=thresholds, horizon=LONGER)


def _talks(truth: Alarm, count: int, rng: np.random.Generator) -> list[ConversationMeans]:
    tokens_NT = rng.integers(2, 10, (count, TURNS)) * 8
    # Levels without the noise of tokens, which comes block by block.
    bare = replace(truth, token=0.0)
    levels_NT = planted(bare, tokens_NT, seed=int(rng.integers(1 << 31)))
    talks = []
    for number in range(count):
        turns = []
        for turn, (level, tokens) in enumerate(
            zip(levels_NT[number], tokens_NT[number], strict=True)
        ):
            eights = level + truth.token / np.sqrt(8) * rng.normal(size=tokens // 8)
            sixteens = eights[: len(eights) // 2 * 2].reshape(-1, 2).mean(axis=1)
            blocks = {"8": tuple(eights.tolist()), "16": tuple(sixteens.tolist())}
            turns.append(TurnMean(turn, float(eights.mean()), int(tokens), blocks))
        talks.append(ConversationMeans(str(number), tuple(turns)))
    return talks


def main() -> int:
    """Prints the table."""
    print("| statistic | rate | conversations | false alarms, mean of fits | detected | knowing |")
    print("|---|---|---|---|---|---|")
    for statistic in ("glr", "turn", "mixture"):
        for rate in (0.05, 0.01):
            truth = of_statistic(statistic, rate)
            knowing = detected_knowing(truth)
            for count in (10, 20, 50):
                found = rate_of_fits(truth, count, 200, seed=0)
                print(
                    f"| {statistic} | {rate:.0%} | {count} | {found.wrong:.1%} ± "
                    f"{2 * found.error:.1%} | {found.detected_F.mean():.2f} | {knowing:.2f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
