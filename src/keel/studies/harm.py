"""Whether conversations that lie lower end in more harm: within domains and between them, apart.

The unit is the person: a pooled correlation of conversations is mostly one of a few domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from keel.statistics import (
    LEVEL,
    Codes,
    Floats,
    Variance,
    independent_difference,
    percentile_interval,
    share_of_groups_interval,
)
from keel.studies.trajectories import Sample
from keel.types import NEUTRAL_DOMAIN, HarmCorrelation, HarmRate, Interval

FEWEST_PEOPLE_FOR_HARM = 8
"""With fewer nothing is said of a correlation."""
_DETECTED = 1.96 + 0.84
"""Standard errors at which 80 % of intervals of 95 % leave 0 out."""


@dataclass(frozen=True)
class HarmPoint:
    """A conversation under one arm: where its last turn lay, and whether harm followed."""

    arm: str
    domain: str
    person: str
    level: float
    """Gap units; NaN where the last turn has none."""
    is_harmful: float
    """1 or 0; NaN where no verdict is known."""


def harm_rates(points: Sequence[HarmPoint]) -> tuple[HarmRate, ...]:
    """The share of harmful answers by arm and domain, neutral conversations last."""
    rates = []
    for arm in dict.fromkeys(point.arm for point in points):
        own = [p for p in points if p.arm == arm and np.isfinite(p.is_harmful)]
        domains = sorted({p.domain for p in own}, key=lambda name: (name == NEUTRAL_DOMAIN, name))
        samples = {
            domain: (
                np.array([p.is_harmful for p in own if p.domain == domain]),
                [p.person for p in own if p.domain == domain],
            )
            for domain in domains
        }
        for domain, sample in samples.items():
            neutral = None if domain == NEUTRAL_DOMAIN else samples.get(NEUTRAL_DOMAIN)
            rate = _person_share(sample)
            over = None
            if neutral is not None:
                over = independent_difference(rate, _person_share(neutral), (-1.0, 1.0))
            rates.append(HarmRate(arm, domain, rate, over, len(sample[1])))
    return tuple(rates)


def harm_correlations(
    points: Sequence[HarmPoint], *, draws: int = 1000, seed: int = 0
) -> tuple[HarmCorrelation, ...]:
    """Level against harm by arm: of people within their domain, and of domains.

    Neutral conversations count between domains only: each is a person of its own. `draws` samples
    make intervals and nulls. () where people are fewer than eight, or levels or harm never differ.
    """
    chance = np.random.default_rng(seed)
    made = []
    for arm in dict.fromkeys(point.arm for point in points):
        own = [
            p for p in points if p.arm == arm and np.isfinite(p.is_harmful) and np.isfinite(p.level)
        ]
        talking = _People.of([p for p in own if p.domain != NEUTRAL_DOMAIN])
        everybody = _People.of(own)
        if len(talking.levels_P) >= FEWEST_PEOPLE_FOR_HARM:
            for people, kind in ((talking, "within domains"), (everybody, "between domains")):
                row = _correlation(arm, people, kind, draws, chance)  # type: ignore[arg-type]
                made += [row] if row is not None else []
    return tuple(made)


def _person_share(sample: Sample) -> Interval:
    """Mean over people of the share of each one's conversations that end in harm."""
    harm_C, people = sample
    codes_C = np.unique(np.array(people, dtype=object), return_inverse=True)[1].reshape(-1)
    return share_of_groups_interval(np.bincount(codes_C, harm_C) / np.bincount(codes_C))


@dataclass(frozen=True)
class _People:
    """A row for each person: the means of their conversations."""

    domains_P: Codes
    levels_P: Floats
    harm_P: Floats

    @classmethod
    def of(cls, points: Sequence[HarmPoint]) -> _People:
        rows: dict[tuple[str, str], list[HarmPoint]] = {}
        for point in points:
            rows.setdefault((point.domain, point.person), []).append(point)
        names = sorted({domain for domain, _ in rows})
        return cls(
            np.array([names.index(domain) for domain, _ in rows], dtype=np.intp),
            np.array([float(np.mean([p.level for p in own])) for own in rows.values()]),
            np.array([float(np.mean([p.is_harmful for p in own])) for own in rows.values()]),
        )

    def pairs(self, kind: str) -> tuple[Floats, Floats]:
        """Level and harm about the domain's means, or these means."""
        count_D = np.maximum(np.bincount(self.domains_P), 1)
        level_D = np.bincount(self.domains_P, self.levels_P) / count_D
        harm_D = np.bincount(self.domains_P, self.harm_P) / count_D
        if kind == "between domains":
            return level_D, harm_D
        return self.levels_P - level_D[self.domains_P], self.harm_P - harm_D[self.domains_P]

    def drawn(self, chance: np.random.Generator) -> _People:
        """As many people of each domain, drawn with replacement."""
        rows = [
            chance.choice(np.flatnonzero(self.domains_P == code), int(count))
            for code, count in enumerate(np.bincount(self.domains_P))
        ]
        rows_P = np.concatenate(rows)
        return _People(self.domains_P[rows_P], self.levels_P[rows_P], self.harm_P[rows_P])

    def permuted(self, kind: str, chance: np.random.Generator) -> _People:
        """With the harm of other people: of the same domain, or of all."""
        harm_P = self.harm_P.copy()
        if kind == "between domains":
            chance.shuffle(harm_P)
        else:
            for code in np.unique(self.domains_P):
                rows = np.flatnonzero(self.domains_P == code)
                harm_P[rows] = chance.permutation(harm_P[rows])
        return _People(self.domains_P, self.levels_P, harm_P)


def _correlation(
    arm: str,
    people: _People,
    kind: Literal["within domains", "between domains"],
    draws: int,
    chance: np.random.Generator,
) -> HarmCorrelation | None:
    r, slope = _fit(*people.pairs(kind))
    if not np.isfinite(r):
        return None
    null = [_fit(*people.permuted(kind, chance).pairs(kind))[0] for _ in range(draws)]
    count, domains = len(people.levels_P), len(np.unique(people.domains_P))
    free = max(1, count - domains - 2)
    if kind == "within domains":
        intervals = _student(r, slope, free)
    else:  # of these very domains: their means are known as far as their people are
        drawn = np.array([_fit(*people.drawn(chance).pairs(kind)) for _ in range(draws)])
        intervals = (percentile_interval(r, drawn[:, 0]), percentile_interval(slope, drawn[:, 1]))
    return HarmCorrelation(
        arm,
        kind,
        intervals[0],
        float(np.nanpercentile(np.abs(null), 95)),
        intervals[1],
        count,
        float(np.tanh(_DETECTED / free**0.5)) if kind == "within domains" else 1.0,
    )


def _student(r: float, slope: float, free: int) -> tuple[Interval, Interval]:
    """Intervals of a correlation (Fisher's z) and of its slope, about means.

    With so many people left over when the means are taken off.
    """
    quantile = Variance(0.0, free).quantile(LEVEL)
    z, reach = np.arctanh(np.clip(r, -1 + 1e-9, 1 - 1e-9)), quantile / free**0.5
    spread = abs(slope) * quantile * ((1 / max(r**2, 1e-12) - 1) / (free + 1)) ** 0.5
    return (
        Interval(r, float(np.tanh(z - reach)), float(np.tanh(z + reach))),
        Interval(slope, slope - spread, slope + spread),
    )


def _fit(x_N: Floats, y_N: Floats) -> tuple[float, float]:
    """Correlation and slope; NaN of fewer than three pairs, or where one never differs."""
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    square, other = float(x_N @ x_N), float(y_N @ y_N)
    if len(x_N) < 3 or square < 1e-12 or other < 1e-12:
        return np.nan, np.nan
    both = float(x_N @ y_N)
    return both / (square * other) ** 0.5, both / square
