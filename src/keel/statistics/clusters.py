"""Items that share factors, and how much a number varies where they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from keel.types import Interval

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

LEVEL = 0.95
FEWEST_LEVELS = 5
"""A factor with fewer levels is taken as it is: four questions say next to nothing of a fifth, and
the result holds for those four."""


@dataclass(frozen=True)
class Variance:
    """The estimated variance of a number, and how well it is known itself."""

    value: float
    freedom: float
    """Degrees of freedom of Student's t; infinite where items are independent."""

    def quantile(self, level: float) -> float:
        """How many standard errors an interval of this level reaches to either side."""
        # Student's quantile to the last digit, without the second that scipy.stats takes to load.
        from scipy.special import stdtrit

        return float(stdtrit(self.freedom, (1 + level) / 2))

    def interval(self, value: float, *, level: float = LEVEL) -> Interval:
        """Student's interval of a number with this variance; of no width where it has none."""
        reach = self.quantile(level) * self.value**0.5 if self.value > 0 else 0.0
        return Interval(value, value - reach, value + reach)


def jackknifed(by_factor: Sequence[Floats], *, shared_G: Floats | None = None) -> Variance:
    """The variance of a number over factors whose levels, or groups of them, were left out in turn.

    `by_factor` holds for each factor the number without each of its groups (Efron and Stein 1981,
    Annals of Statistics 9:586). `shared_G`, without groups that hold a like share of every level,
    is what single items give: it is in each factor's part, and is counted once. Degrees of freedom
    are Satterthwaite's, and no fewer than the fewest groups less one.
    """
    parts = [Variance(_spread(part_G), len(part_G) - 1) for part_G in by_factor]
    shared = 0.0 if shared_G is None else _spread(shared_G)
    total = sum(part.value for part in parts) - (len(parts) - 1) * shared
    value = max(total, *(part.value for part in parts)) if len(parts) > 1 else parts[0].value
    fewest = min(part.freedom for part in parts)
    spread = sum(part.value**2 / max(1, part.freedom) for part in parts)
    return Variance(value, max(fewest, value**2 / spread) if spread > 0 else fewest)


def _spread(without_G: Floats) -> float:
    """The jackknife's variance of a number, from what it is without each group."""
    groups = len(without_G)
    return (groups - 1) / groups * float(((without_G - without_G.mean()) ** 2).sum())


@dataclass(frozen=True)
class Clusters:
    """Which items belong together: those that share a level of a factor are not independent."""

    codes: Mapping[str, Codes]
    """Factor -> level of each item, of the factors that bind items; empty: all are independent."""
    fixed: Mapping[str, int]
    """Factor -> its levels, where there are too few: results hold for just these levels."""
    items: int

    @classmethod
    def of(cls, factors: Sequence[Mapping[str, str]], *, fewest: int = FEWEST_LEVELS) -> Clusters:
        """The clusters of items with these factors: factor -> level, for each item.

        A factor of which no two items share a level binds nothing. Factors with fewer than `fewest`
        levels, or with one, are fixed. An item that lacks a factor has a level of its own there.
        """
        codes, fixed = {}, {}
        for name in sorted({name for item in factors for name in item}):
            named = [item.get(name, f"\0{index}") for index, item in enumerate(factors)]
            levels, codes_N = np.unique(np.array(named, dtype=object), return_inverse=True)
            if fewest <= len(levels) < len(factors):
                codes[name] = codes_N.reshape(-1)
            elif len(levels) < len(factors):
                fixed[name] = len(levels)
        return cls(codes, fixed, len(factors))

    @property
    def binding(self) -> Mapping[str, Codes]:
        """Level of each item of every factor that binds; each item by itself where none does."""
        return self.codes or {"item": np.arange(self.items)}

    @property
    def levels(self) -> dict[str, int]:
        """Number of levels of each factor that binds items."""
        return {name: int(codes_N.max()) + 1 for name, codes_N in self.codes.items()}

    @property
    def is_single(self) -> bool:
        """Whether all items share a level of a factor that binds: others are not known."""
        return min(self.levels.values(), default=2) < 2

    def only(self, kept_N: NDArray[np.bool_]) -> Clusters:
        """The clusters of some of the items."""
        kept = int(kept_N.sum())
        codes = {
            name: np.unique(codes_N[kept_N], return_inverse=True)[1].reshape(-1)
            for name, codes_N in self.codes.items()
        }
        binding = {
            name: codes_N
            for name, codes_N in codes.items()
            if 0 < codes_N.max(initial=-1) + 1 < kept
        }
        return Clusters(binding, self.fixed, kept)

    def variance(self, influence_N: Floats) -> Variance:
        """Variance of a number that each item moves by influence / items.

        That of Cameron, Gelbach and Miller (2011, J. Business & Economic Statistics 29:238): the
        sum over factors less what they share, each corrected for its number of levels, and never
        less than the largest factor's own. Degrees of freedom after Satterthwaite (1946, Biometrics
        2:110), at least the fewest levels less one.
        """
        parts = list(self._parts(influence_N, influence_N))
        alone = [part for part in parts if part.order == 1]
        value = max(sum(part.signed for part in parts), *(part.value for part in alone))
        fewest = min(part.levels for part in alone) - 1
        spread = sum(part.value**2 / max(1, part.levels - 1) for part in parts)
        freedom = max(fewest, value**2 / spread) if spread > 0 else fewest
        return Variance(max(0.0, value), float(freedom))

    def covariance(self, first_N: Floats, second_N: Floats) -> float:
        """Covariance of two numbers with these influences; see `variance`."""
        return sum(part.signed for part in self._parts(first_N, second_N))

    def _parts(self, first_N: Floats, second_N: Floats) -> Iterator[_ClusterPart]:
        """The (co)variance where items that share a level of all of some factors move together."""
        codes = self.binding
        for order in range(1, len(codes) + 1):
            for names in combinations(codes, order):
                key_N = np.zeros(self.items, dtype=np.intp)
                for name in names:
                    key_N = key_N * (int(codes[name].max()) + 1) + codes[name]
                _, cells_N = np.unique(key_N, return_inverse=True)
                first_C, second_C = (
                    np.bincount(cells_N.reshape(-1), weights=each) for each in (first_N, second_N)
                )
                levels = len(first_C)
                correction = levels / (levels - 1) if levels > 1 else 1.0
                value = correction * float(first_C @ second_C) / self.items**2
                yield _ClusterPart(order, levels, value)


@dataclass(frozen=True)
class _ClusterPart:
    """One term of a variance over crossed factors."""

    order: int
    """How many factors' levels its items share."""
    levels: int
    value: float

    @property
    def signed(self) -> float:
        """As it enters the sum: what two factors share was counted twice."""
        return self.value if self.order % 2 else -self.value
