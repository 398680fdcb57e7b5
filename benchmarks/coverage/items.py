"""Studies of evaluations, judges and sweeps: answers to items that share personas and requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.random import Generator

from benchmarks.coverage.studies import Known, Statement, Study
from keel.evaluate.summary import rates_by_projection
from keel.statistics import (
    Clusters,
    Floats,
    clustered_correlation,
    difference_interval,
    kappa_interval,
    paired_p_value,
    rate_interval,
)

_DRAWS = 400
_LEVEL = -0.85
"""Log odds of an answer that counts, before effects: about 30 %."""
_PERSONAS, _REQUESTS = 0.8, 0.8
"""Standard deviations of personas and of requests, on the scale of log odds (or of scores)."""
_MANY = 40_000
"""Other items, for what a rate in a bin is about."""
_ARMS = 0.7
"""Standard deviation of an arm's effect on a persona or request, where effects vary."""


@dataclass(frozen=True)
class Items:
    """Personas and requests, crossed or each persona with requests of its own."""

    personas: int
    """0: items that share nothing."""
    requests: int
    is_crossed: bool

    @property
    def count(self) -> int:
        """Number of items."""
        return max(1, self.personas) * self.requests

    @property
    def words(self) -> str:
        """`10 personas × 30 requests`."""
        if not self.personas:
            return f"{self.requests} items"
        between = "×" if self.is_crossed else "of"
        what = "requests" if self.is_crossed else "items"
        return f"{self.personas} personas {between} {self.requests} {what}"

    @cached_property
    def clusters(self) -> Clusters:
        """Which items share what."""
        return Clusters.of([self._factors(n) for n in range(self.count)])

    def effects(self, rng: Generator, personas: float, requests: float) -> Floats:
        """An effect for each item: its persona's, and its request's where requests are crossed."""
        persona_N = np.arange(self.count) // self.requests
        effect_N = np.zeros(self.count)
        if self.personas:
            effect_N += personas * rng.normal(size=self.personas)[persona_N]
        # Each persona's own requests are as many strangers.
        levels = self.requests if self.is_crossed else self.count
        level_N = np.arange(self.count) % levels
        return effect_N + requests * rng.normal(size=levels)[level_N]

    def _factors(self, number: int) -> dict[str, str]:
        if not self.personas:
            return {}
        factors = {"persona": f"p{number // self.requests}"}
        return factors | ({"request": f"r{number % self.requests}"} if self.is_crossed else {})


DESIGNS = (
    Items(4, 60, True),
    *(Items(0, count, False) for count in (12, 50, 300)),
    Items(5, 10, False),
    Items(10, 5, False),
    Items(10, 30, False),
    Items(60, 5, False),
    Items(5, 60, True),
    Items(10, 30, True),
    Items(20, 20, True),
    Items(60, 40, True),
)


def studies() -> Iterator[Study]:
    """All designs of items; judges and correlations on those without crossing."""
    for items in DESIGNS:
        draws = 1 if items.clusters.fixed else _DRAWS
        draw = partial(_arms, items)
        yield Study("evaluations", items.words, draw, draws, _arm_truths(items))
    for items in DESIGNS:
        if not items.is_crossed:
            yield Study("judges", items.words, partial(_judges, items), _DRAWS)


# --- arms ---


def _arms(items: Items, rng: Generator) -> Mapping[str, Statement]:
    """Rates of one arm, and two arms without a true difference between them."""
    clusters = items.clusters
    base_N = items.effects(rng, _PERSONAS, _REQUESTS)
    stated: dict[str, Statement] = {}
    for null, spread in (("sharp", 0.0), ("random effects", _ARMS)):
        first_N, second_N = (base_N + items.effects(rng, spread, spread) for _ in range(2))
        pairs = {
            "shares": (_counted(first_N, rng), _counted(second_N, rng)),
            "scores": (_scored(first_N, rng), _scored(second_N, rng)),
        }
        for unit, (after_N, before_N) in pairs.items():
            stated[f"p, {unit}, {null} null"] = paired_p_value(after_N, before_N, clusters)
            if spread:
                stated[f"difference of {unit}"] = difference_interval(after_N, before_N, clusters)
            else:
                stated[f"mean of {unit}"] = rate_interval(before_N, clusters)
    stated["mean of rare shares"] = rate_interval(_counted(base_N - 2.5, rng), clusters)
    x_N = items.effects(rng, 1, 1)
    stated["correlation"] = clustered_correlation(x_N, 0.5 * x_N + base_N, clusters)
    stated["rate in the lowest bin of projections"] = _lowest_bin(items, rng)
    return _said(stated, clusters)


def _lowest_bin(items: Items, rng: Generator) -> Statement:
    """The rate of harm where first answers project lowest, held against very many other items'."""
    projections_N, harm_N = _drift_and_harm(items, rng)
    bins = rates_by_projection(projections_N, harm_N, items.clusters, bins=3)
    if not bins:
        return None
    many = replace(items, personas=400 * bool(items.personas), requests=_MANY // 400)
    many = many if items.personas else replace(items, requests=_MANY)
    others_N, others_harm_N = _drift_and_harm(many, rng)
    return Known(bins[0].rate, float(others_harm_N[others_N <= bins[0].high].mean()))


def _drift_and_harm(items: Items, rng: Generator) -> tuple[Floats, Floats]:
    """Projections of first answers, and the chance with which each is followed by harm."""
    projections_N = items.effects(rng, 1, 1) + rng.normal(size=items.count)
    effect_N = items.effects(rng, _PERSONAS, _REQUESTS) - 0.5 * projections_N
    return projections_N, _counted(effect_N, rng)


def _said(stated: Mapping[str, Statement], clusters: Clusters) -> Mapping[str, Statement]:
    """What Keel states; with too few levels it says that it speaks of those alone."""
    return dict.fromkeys(stated) if clusters.fixed else stated


def _arm_truths(items: Items) -> dict[str, float]:
    """What was planted: differences are 0; shares are means over all personas and requests."""
    spread = (_PERSONAS**2 * bool(items.personas) + _REQUESTS**2) ** 0.5
    nodes, weights = hermegauss(61)
    share = lambda level: float(weights @ _expit(level + spread * nodes) / weights.sum())  # noqa: E731
    return {
        "mean of shares": share(_LEVEL),
        "mean of rare shares": share(_LEVEL - 2.5),
        "mean of scores": _MEAN_SCORE,
        "difference of shares": 0.0,
        "difference of scores": 0.0,
        "correlation": 0.5 / (0.25 + _PERSONAS**2) ** 0.5,
    }


_MEAN_SCORE = 50.0 + 10.0


def _expit(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def _counted(effect_N: Floats, rng: Generator) -> Floats:
    """1 for each answer that counts, else 0."""
    return (rng.random(len(effect_N)) < _expit(_LEVEL + effect_N)).astype(np.float64)


def _scored(effect_N: Floats, rng: Generator) -> Floats:
    """Skewed scores: a long tail above a mean of 60."""
    return np.asarray(50 + 10 * effect_N + rng.exponential(10, len(effect_N)))


# --- judges ---


def _judges(items: Items, rng: Generator) -> Mapping[str, Statement]:
    """Agreement of two judges of three labels, who agree more on some personas' answers."""
    clusters = items.clusters
    stated: dict[str, Statement] = {}
    for name, level in (("κ near 0.6", 1.0), ("κ near 0.95", 3.6)):
        first_N = rng.choice(3, size=items.count, p=[0.5, 0.3, 0.2])
        agrees_N = rng.random(items.count) < _expit(level + items.effects(rng, 0.8, 0.0))
        second_N = np.where(agrees_N, first_N, rng.choice(3, size=items.count, p=[0.5, 0.3, 0.2]))
        stated[name] = kappa_interval(first_N, second_N, 3, clusters)
        if level == 1.0:
            same_N = (first_N == second_N).astype(np.float64)
            stated["share that agrees"] = rate_interval(same_N, clusters)
    return stated
