"""Items in two halves: by one a setting is chosen, by the other its effect is told.

The best of many is partly the luckiest, so what it scored while being chosen says too much of it.
The halves share no persona and no request: a setting that happens to suit one request would
otherwise look as lucky in both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from keel.errors import TooFewSamplesError, UsageError
from keel.seeds import shuffle_key
from keel.types import Item

FEWEST_ITEMS = 8
"""Items that each half must have, or levels of one factor alone are kept apart."""


@dataclass(frozen=True)
class Halves:
    """Items by which to choose and items by which to decide."""

    choosing: tuple[Item, ...]
    deciding: tuple[Item, ...]
    shared: tuple[str, ...] = ()
    """Factors whose levels occur in both halves, for want of items."""

    def __post_init__(self) -> None:
        if not self.choosing or not self.deciding:
            count = len(self.choosing) + len(self.deciding)
            raise TooFewSamplesError(
                f"{count} items cannot be halved; give at least two that share nothing"
            )

    @property
    def items(self) -> tuple[Item, ...]:
        """Both halves."""
        return self.choosing + self.deciding


def split_items(items: Iterable[Item], *, limit: int | None = None, seed: int = 0) -> Halves:
    """Half of each factor's levels to choose by, the other half to decide by, drawn by the seed.

    Items that mix levels of both are left out; where too few would be left, only the factor with
    the most levels is split. `limit` bounds the items of both halves together.
    """
    if limit is not None and limit < 2:
        raise UsageError(f"limit is {limit} items, expected 2 or more: half choose, half decide")
    asked = [item for item in items if not item.is_baseline]
    levels = factor_levels(asked)
    names = sorted(levels, key=lambda name: (-len(levels[name]), name))
    halves = _halves(asked, names, seed)
    if names[1:] and min(map(len, halves)) < FEWEST_ITEMS:
        halves = _halves(asked, names[:1], seed)
    chosen = [_draw(half, limit, seed) for half in halves]
    return Halves(chosen[0], chosen[1], _shared(chosen[0], chosen[1], names))


def factor_levels(items: Iterable[Item]) -> dict[str, list[str]]:
    """Levels of each factor in which items differ, each once."""
    found: dict[str, dict[str, None]] = {}
    for item in items:
        for name, level in item.factors.items():
            found.setdefault(name, {})[level] = None
    return {name: list(levels) for name, levels in found.items() if len(levels) > 1}


def _halves(
    items: Sequence[Item], names: Sequence[str], seed: int
) -> tuple[list[Item], list[Item]]:
    """Items whose levels all lie in the first half of their factors, and all in the second."""
    if not names:
        ordered = sorted(items, key=lambda item: shuffle_key(seed, item.id))
        return ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]
    levels = factor_levels(items)
    first = {name: _first_half(name, levels[name], seed) for name in names}
    sides = [{item.factors.get(name) in first[name] for name in names} for item in items]
    pairs = list(zip(items, sides, strict=True))
    return [i for i, side in pairs if side == {True}], [i for i, side in pairs if side == {False}]


def _first_half(name: str, levels: Collection[str], seed: int) -> set[str]:
    ordered = sorted(levels, key=lambda level: shuffle_key(seed, f"{name}={level}"))
    return set(ordered[: len(ordered) // 2])


def _draw(items: Sequence[Item], limit: int | None, seed: int) -> tuple[Item, ...]:
    """Half as many items as the limit allows, drawn by the seed, in their own order."""
    count = len(items) if limit is None else limit // 2
    drawn = sorted(items, key=lambda item: shuffle_key(seed, item.id))[:count]
    ids = {item.id for item in drawn}
    return tuple(item for item in items if item.id in ids)


def _shared(one: Iterable[Item], other: Iterable[Item], names: Iterable[str]) -> tuple[str, ...]:
    def met(items: Iterable[Item], name: str) -> set[str]:
        return {item.factors[name] for item in items if name in item.factors}

    first, second = tuple(one), tuple(other)
    return tuple(sorted(name for name in names if met(first, name) & met(second, name)))
