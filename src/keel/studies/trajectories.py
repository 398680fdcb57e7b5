"""Mean levels of domains turn by turn, with intervals over people, beside neutral conversations.

People are what a study draws: turns of a conversation share a level, and conversations of a person
share topics and manner. So each person counts once, by the mean of their conversations, and the
interval is Student's with as many degrees of freedom as there are people less one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from keel.statistics import Floats, Variance
from keel.types import (
    NEUTRAL_DOMAIN,
    ArmDifference,
    ConversationPath,
    DomainPath,
    Interval,
    SharesOfVariance,
    TurnReadingKind,
)

FEWEST_CONVERSATIONS = 10
"""Turns that fewer conversations of a domain reach are left out, as in Lu et al. 2026."""
_KINDS: tuple[TurnReadingKind, ...] = get_args(TurnReadingKind)


@dataclass(frozen=True)
class TurnPoint:
    """One answered turn as numbers, gap units; NaN where it was not read so."""

    arm: str
    domain: str
    person: str
    conversation: str
    turn: int
    with_history: float
    alone: float
    fresh: float
    tokens: int
    message: str
    is_cut: bool = False
    prompt: float = np.nan
    """Level of the prompt's last token, before the answer."""
    along: tuple[float, float] = (np.nan, np.nan)
    """Coordinates along the first two components of persona space, in gap units of the axis."""

    def level(self, reading: TurnReadingKind) -> float:
        """The level by one of the readings."""
        levels = (self.with_history, self.alone, self.fresh, *self.along)
        by_kind = dict(zip(_KINDS, levels, strict=True))
        return by_kind[reading]


def domain_paths(points: Sequence[TurnPoint]) -> tuple[DomainPath, ...]:
    """Every domain's path under every arm by every reading, neutral conversations last."""
    arms = list(dict.fromkeys(point.arm for point in points))
    domains = list(dict.fromkeys(point.domain for point in points))
    ordered = [name for name in domains if name != NEUTRAL_DOMAIN]
    ordered += [NEUTRAL_DOMAIN] if NEUTRAL_DOMAIN in domains else []
    paths = []
    for arm in arms:
        for reading in _KINDS:
            by_domain = {domain: _Levels.of(points, arm, domain, reading) for domain in ordered}
            neutral = by_domain.get(NEUTRAL_DOMAIN)
            for domain, levels in by_domain.items():
                if levels.values_CT.size and np.isfinite(levels.values_CT).any():
                    over = None if domain == NEUTRAL_DOMAIN else neutral
                    paths.append(_path(arm, domain, reading, levels, over))
    return tuple(paths)


def conversation_paths(points: Sequence[TurnPoint]) -> tuple[ConversationPath, ...]:
    """Every conversation's own levels under every arm."""
    talks: dict[tuple[str, str], list[TurnPoint]] = {}
    for point in points:
        talks.setdefault((point.arm, point.conversation), []).append(point)
    return tuple(
        ConversationPath(
            arm,
            name,
            own[0].domain,
            tuple(
                point.with_history if np.isfinite(point.with_history) else None
                for point in sorted(own, key=lambda point: point.turn)
            ),
        )
        for (arm, name), own in talks.items()
    )


def arm_differences(points: Sequence[TurnPoint]) -> tuple[ArmDifference, ...]:
    """Levels under each further arm minus those under the first, conversation by conversation."""
    arms = list(dict.fromkeys(point.arm for point in points))
    differences = []
    for arm in arms[1:]:
        for domain in dict.fromkeys(point.domain for point in points):
            under = _Levels.of(points, arm, domain, "with history")
            first = _Levels.of(points, arms[0], domain, "with history")
            shared = [name for name in first.conversations if name in under.conversations]
            rows = [levels.rows(shared) for levels in (under, first)]
            if not shared:
                continue
            last = min(row.shape[1] for row in rows)
            change_CT = rows[0][:, :last] - rows[1][:, :last]
            people = [first.person_of[name] for name in shared]
            ends = [person_interval(change_CT[:, turn], people) for turn in (0, last - 1)]
            differences.append(ArmDifference(arm, arms[0], domain, *ends))
    return tuple(differences)


def variance_shares(points: Sequence[TurnPoint], arm: str) -> SharesOfVariance | None:
    """Shares of the variance of levels between domains, people, conversations and turns.

    Turn means are removed, and neutral conversations left out. Estimated by moments as in a nested
    analysis of variance (Searle, Casella and McCulloch 1992, Variance Components, ch. 3), with
    harmonic mean sizes where groups are unequal; negative estimates count as 0. None where there
    are not two domains of two people with two conversations.
    """
    values = {
        (point.domain, point.person, point.conversation, str(point.turn)): point.with_history
        for point in points
        if point.arm == arm and point.domain != NEUTRAL_DOMAIN and np.isfinite(point.with_history)
    }
    of_turn: dict[str, list[float]] = {}
    for key, value in values.items():
        of_turn.setdefault(key[-1], []).append(value)
    nested: dict[tuple[str, ...], float] = {
        key: value - float(np.mean(of_turn[key[-1]])) for key, value in values.items()
    }
    parts, carried = [], 0.0
    for depth in (3, 2, 1, 0):
        groups: dict[tuple[str, ...], list[float]] = {}
        for member, value in nested.items():
            groups.setdefault(member[:depth], []).append(value)
        freedom = sum(len(group) - 1 for group in groups.values())
        if not freedom:
            return None
        within = sum(float(np.var(group)) * len(group) for group in groups.values()) / freedom
        parts.append(max(0.0, within - carried))
        carried = within * float(np.mean([1 / len(group) for group in groups.values()]))
        nested = {name: float(np.mean(group)) for name, group in groups.items()}
    turns, conversations, people, domains = (part / (sum(parts) or 1.0) for part in parts)
    return SharesOfVariance(arm, domains, people, conversations, turns)


def person_interval(values_C: Floats, people: Sequence[str]) -> Interval:
    """Mean over people of each person's mean, with Student's 95 % interval over people.

    NaN are left out. Of a single person, or of people who do not differ, there is no interval: it
    is infinite.
    """
    mean, variance, freedom = _over_people(values_C, people)
    return _interval(mean, variance, freedom)


def _over_people(values_C: Floats, people: Sequence[str]) -> tuple[float, float, float]:
    """Mean, its variance, and degrees of freedom of this."""
    of_person: dict[str, list[float]] = {}
    for value, person in zip(values_C, people, strict=True):
        if np.isfinite(value):
            of_person.setdefault(person, []).append(float(value))
    means_P = np.array([float(np.mean(values)) for values in of_person.values()])
    if not len(means_P):
        return np.nan, np.inf, 0.0
    if len(means_P) < 2:
        return float(means_P[0]), np.inf, 0.0
    return float(means_P.mean()), float(means_P.var(ddof=1)) / len(means_P), len(means_P) - 1.0


def _interval(mean: float, variance: float, freedom: float) -> Interval:
    if not freedom or not np.isfinite(variance) or not variance > 0:
        return Interval(mean, -np.inf, np.inf)
    return Variance(variance, freedom).interval(mean)


def person_difference(first: Sample, second: Sample) -> Interval:
    """Difference of two means over people, after Welch (1947, Biometrika 34:28)."""
    mean, variance, freedom = _over_people(*first)
    other, others_variance, others_freedom = _over_people(*second)
    total = variance + others_variance
    if not (freedom and others_freedom) or not total:
        return _interval(mean - other, total, min(freedom, others_freedom))
    both = total**2 / (variance**2 / freedom + others_variance**2 / others_freedom)
    return _interval(mean - other, total, both)


Sample = tuple[Floats, Sequence[str]]
"""A value for each conversation, and whose conversation it is."""


@dataclass(frozen=True)
class _Levels:
    """Levels of one domain's conversations under one arm, a row each; NaN where there is none."""

    conversations: tuple[str, ...]
    person_of: dict[str, str]
    values_CT: Floats

    @classmethod
    def of(
        cls,
        points: Sequence[TurnPoint],
        arm: str,
        domain: str,
        reading: TurnReadingKind,
    ) -> _Levels:
        chosen = [point for point in points if (point.arm, point.domain) == (arm, domain)]
        person_of = {point.conversation: point.person for point in chosen}
        rows = {name: row for row, name in enumerate(person_of)}
        turns = 1 + max((point.turn for point in chosen), default=-1)
        values_CT = np.full((len(rows), turns), np.nan)
        for point in chosen:
            values_CT[rows[point.conversation], point.turn] = point.level(reading)
        return cls(tuple(rows), person_of, values_CT)

    @property
    def people(self) -> list[str]:
        return [self.person_of[name] for name in self.conversations]

    def rows(self, names: Sequence[str]) -> Floats:
        """The rows of these conversations."""
        index = {name: row for row, name in enumerate(self.conversations)}
        rows_CT: Floats = self.values_CT[[index[name] for name in names]]
        return rows_CT

    def turns(self, fewest: int) -> int:
        """How many turns, from the first on, so many conversations reach, and some have a level.

        A conversation reaches a turn that it goes on behind, whether or not its answer is empty.
        """
        is_there_CT = np.isfinite(self.values_CT)
        reached_T = np.logical_or.accumulate(is_there_CT[:, ::-1], axis=1)[:, ::-1].sum(0)
        is_short_T = reached_T < min(fewest, max(reached_T, default=0))
        short = np.flatnonzero(is_short_T | ~is_there_CT.any(0))
        return int(short[0]) if len(short) else len(reached_T)

    def slopes(self, turns: int) -> Floats:
        """Each conversation's least-squares change per turn; NaN with fewer than three turns."""
        slopes_C = np.full(len(self.conversations), np.nan)
        for row, values_T in enumerate(self.values_CT[:, :turns]):
            there = np.flatnonzero(np.isfinite(values_T))
            if len(there) > 2:
                slopes_C[row] = np.polyfit(there, values_T[there], 1)[0]
        return slopes_C


def _path(
    arm: str, domain: str, reading: TurnReadingKind, levels: _Levels, neutral: _Levels | None
) -> DomainPath:
    turns, people, values_CT = levels.turns(FEWEST_CONVERSATIONS), levels.people, levels.values_CT
    slopes_C = levels.slopes(turns)
    over: tuple[Interval, ...] = ()
    slope_over = None
    if neutral is not None:
        shared = min(turns, neutral.turns(FEWEST_CONVERSATIONS))
        over = tuple(
            person_difference((values_CT[:, n], people), (neutral.values_CT[:, n], neutral.people))
            for n in range(shared)
        )
        if shared > 2:
            neutral_slopes_C = neutral.slopes(shared)
            slope_over = person_difference(
                (levels.slopes(shared), people), (neutral_slopes_C, neutral.people)
            )
    is_there_CT = np.isfinite(values_CT[:, :turns])
    stayed_C = is_there_CT[:, -1] if turns else np.zeros(len(people), dtype=bool)
    cohort: tuple[Interval, ...] = ()
    if not is_there_CT.all() and stayed_C.any():
        who = [person for person, stayed in zip(people, stayed_C, strict=True) if stayed]
        cohort = tuple(person_interval(values_CT[stayed_C, n], who) for n in range(turns))
    return DomainPath(
        arm,
        domain,
        reading,
        tuple(person_interval(values_CT[:, n], people) for n in range(turns)),
        tuple(int(count) for count in is_there_CT.sum(0)),
        over,
        person_interval(slopes_C, people) if np.isfinite(slopes_C).any() else None,
        slope_over,
        cohort,
    )
