"""How often fitted alarms are wrong in planted worlds that their constants were not tuned in.

The allowance for few conversations was tuned in the first world. python -m benchmarks.alarm.worlds
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.alarm.few import FRESH, LONGER, TRUTH, TURNS, RateOfFits, of_statistic
from keel.alarm import Alarm, ConversationMeans, TurnMean, estimated, evidence_paths


@dataclass(frozen=True)
class World:
    """How default conversations vary, and which of them alarms are fitted to."""

    between: float = TRUTH.between
    within: float = TRUTH.within
    token: float = TRUTH.token
    expected: tuple[float, ...] = TRUTH.expected
    turns: int = TURNS
    """Of the conversations fitted to; those tried have 12."""
    eights: tuple[int, int] = (2, 9)
    """Fewest and most blocks of eight tokens in an answer."""
    freedom: float | None = None
    """Degrees of freedom of Student's t, which levels are drawn from; None for the normal."""

    def truth(self, statistic: str, rate: float) -> Alarm:
        """The alarm that knows this world, but for its tails."""
        return replace(
            of_statistic(statistic, rate),
            between=self.between,
            within=self.within,
            token=self.token,
            expected=self.expected,
        )

    def draw(self, tokens_NT: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Levels in gaps, without the noise of tokens."""
        count, turns = tokens_NT.shape
        last = len(self.expected) - 1
        levels_T = np.array([self.expected[min(turn, last)] for turn in range(turns)])
        own_N1, turn_NT = self._standard(rng, (count, 1)), self._standard(rng, (count, turns))
        return levels_T + self.between * own_N1 + self.within * turn_NT

    def _standard(self, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        """Draws of variance 1."""
        if self.freedom is None:
            return rng.normal(size=shape)
        return rng.standard_t(self.freedom, shape) * np.sqrt(1 - 2 / self.freedom)


WORLDS = {
    "as tuned": World(),
    "ICC .1": World(between=0.18, within=0.54),
    "ICC .8": World(between=0.51, within=0.25),
    "noisy tokens": World(token=4.0),
    "short answers": World(eights=(2, 4)),
    "3 turns": World(turns=3),
    "12 turns": World(turns=12),
    "steep fall": World(expected=(2.0, 0.5, -0.2, -0.4, -0.5, -0.5)),
    "t with 5 degrees": World(freedom=5),
}


def rate_in(world: World, truth: Alarm, conversations: int, fits: int, *, seed: int) -> RateOfFits:
    """Alarms fitted to this world's conversations, each tried on 1,000 fresh ones of 12 turns."""
    rng = np.random.default_rng([seed, conversations])
    wrong = []
    for _ in range(fits):
        alarm = estimated(truth, _talks(world, conversations, rng), horizon=LONGER)[0]
        tokens_NT = 8 * rng.integers(world.eights[0], world.eights[1] + 1, (FRESH, LONGER))
        gaps_NT = world.draw(tokens_NT, rng)
        gaps_NT = gaps_NT + world.token / np.sqrt(tokens_NT) * rng.normal(size=tokens_NT.shape)
        paths_NT = evidence_paths(alarm, gaps_NT, tokens_NT)
        wrong.append((paths_NT >= alarm.threshold()).any(axis=1).mean())
    return RateOfFits(np.array(wrong), np.full(fits, np.nan))


def _talks(world: World, count: int, rng: np.random.Generator) -> list[ConversationMeans]:
    tokens_NT = 8 * rng.integers(world.eights[0], world.eights[1] + 1, (count, world.turns))
    talks = []
    for number, levels_T in enumerate(world.draw(tokens_NT, rng)):
        turns = []
        for turn, level in enumerate(levels_T):
            size = int(tokens_NT[number, turn])
            noise = np.repeat(rng.normal(size=size // 8), 8)  # neighbours are alike
            projections = level + world.token / np.sqrt(8) * noise
            turns.append(TurnMean.of(turn, projections.tolist()))
        talks.append(ConversationMeans(str(number), tuple(turns)))
    return talks


def main() -> int:
    """Prints the table."""
    print("| statistic | world | 5 %, 10 conversations | 5 %, 40 | 1 %, 10 | 1 %, 40 |")
    print("|---|---|---|---|---|---|")
    for statistic in ("mixture", "glr"):
        for name, world in WORLDS.items():
            cells = []
            for rate in (0.05, 0.01):
                for count in (10, 40):
                    seen = rate_in(world, world.truth(statistic, rate), count, 60, seed=1)
                    cells.append(f"{seen.wrong:.1%} ± {2 * seen.error:.1%}")
            print(f"| {statistic} | {name} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
