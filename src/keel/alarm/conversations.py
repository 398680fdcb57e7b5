"""Conversations as an alarm is calibrated on them: levels and lengths of turns, no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCKS = (16, 8)
"""Tokens of a block: neighbours are alike, so single tokens would show a third of the noise."""


@dataclass(frozen=True)
class TurnMean:
    """What calibration needs of a turn."""

    turn: int
    """0-based number among the conversation's answers."""
    mean: float
    """Mean raw projection over the content tokens."""
    tokens: int
    blocks: dict[str, tuple[float, ...]]
    """Means of neighbouring blocks of tokens, by the tokens of a block."""

    @classmethod
    def of(cls, turn: int, projections: Sequence[float]) -> TurnMean:
        """From the raw projections of a turn's content tokens, at least one."""
        values_T = np.asarray(projections, dtype=np.float64)
        blocks = {}
        for size in BLOCKS:
            whole = len(values_T) // size
            means = values_T[: whole * size].reshape(whole, size).mean(axis=1)
            blocks[str(size)] = tuple(float(mean) for mean in means)
        return cls(turn, float(values_T.mean()), len(values_T), blocks)


@dataclass(frozen=True)
class ConversationMeans:
    """The turns of a conversation that have tokens."""

    id: str
    turns: tuple[TurnMean, ...]
    group: str = ""
    """What it is counted under beside others, such as its system prompt's hash."""
