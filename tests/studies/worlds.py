"""Worlds whose truth is planted: how the level of an answer comes about is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from keel.studies import MessageTable, TurnPoint

DOMAINS = ("coding", "writing", "therapy", "philosophy")
LINES = 24
"""Messages of a domain."""

Level = Callable[[str, str, int, int, float], float]
"""(domain, person, line, turn, previous level) -> level."""


def embedding(size: int = 32, seed: int = 0) -> Callable[[Sequence[str]], np.ndarray]:
    """A fixed random unit vector for each text."""

    def embed(texts: Sequence[str]) -> np.ndarray:
        rows = [
            np.random.default_rng([seed, *text.encode()]).standard_normal(size) for text in texts
        ]
        return np.stack([row / np.linalg.norm(row) for row in rows])

    return embed


def talk(
    level: Level, *, people: int = 5, topics: int = 2, turns: int = 6, seed: int = 0
) -> list[TurnPoint]:
    """Conversations of a planted world, each line once in each, in an order of its own."""
    chance = np.random.default_rng(seed)
    points = []
    for domain in DOMAINS:
        for person in (f"{domain}-{n}" for n in range(people)):
            for topic in range(topics):
                previous = 0.0
                for turn, line in enumerate(chance.permutation(LINES)[:turns]):
                    value = level(domain, person, int(line), turn, previous)
                    points.append(
                        TurnPoint(
                            "none",
                            domain,
                            person,
                            f"{person}-{topic}",
                            turn,
                            value,
                            value,
                            value,
                            20,
                            f"{domain} line {line}",
                        )
                    )
                    previous = value
    return points


def table_of(points: Sequence[TurnPoint]) -> MessageTable:
    return MessageTable.of(points, embedding())
