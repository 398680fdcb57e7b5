"""Studies of drift studies: people of several domains who talk, and what is stated of their turns.

A turn's level is its domain's, plus its person's, its conversation's and its own; harm follows by a
chance that the person and the last level decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial

import numpy as np
from numpy.random import Generator

from benchmarks.coverage.studies import Known, Statement, Study
from keel.statistics import Floats
from keel.studies import (
    HarmPoint,
    MessageTable,
    TurnPoint,
    cluster_messages,
    domain_paths,
    harm_correlations,
    harm_rates,
    predict_levels,
    prompt_correlation,
    space_shares,
)
from keel.types import NEUTRAL_DOMAIN

_DOMAINS = {"coding": 0.9, "therapy": 0.4, "philosophy": 0.0, NEUTRAL_DOMAIN: 0.8}
_TALKS, _TURNS = 4, 4
_PERSON, _TALK, _TURN = 0.4, 0.2, 0.3
"""Standard deviations in gaps."""
_FALL = 0.1
"""Gaps a turn, in all domains but the neutral one."""
_LINES, _WORDS, _HIDDEN = 40, 16, 24
_DRAWS = 400
_FEWER = 100


def studies() -> Iterator[Study]:
    """Few to many people in each domain."""
    for people in (5, 8, 20):
        words = f"{people} people of {_TALKS} conversations"
        truths = {"change a turn": -_FALL, "change a turn over neutral": -_FALL}
        yield Study("conversations", words, partial(_talked, people), _DRAWS, truths)
    for people in (5, 20):
        words = f"{people} people of {_TALKS} conversations"
        yield Study("messages", words, partial(_worded, people), _FEWER)


# --- what is planted ---


def _points(people: int, rng: Generator) -> tuple[list[TurnPoint], list[HarmPoint]]:
    """Turns of all conversations, and what followed the last of each."""
    turns, ends = [], []
    lines_L = 0.3 * np.random.default_rng(0).normal(size=_LINES)
    for domain, mean in _DOMAINS.items():
        fall = 0.0 if domain == NEUTRAL_DOMAIN else _FALL
        for person in range(people):
            own = mean + _PERSON * rng.normal()
            for talk in range(_TALKS):
                name, level = f"{domain}-{person}", np.nan
                start = own + _TALK * rng.normal()
                for turn in range(_TURNS):
                    line = int(rng.integers(_LINES))
                    level = start - fall * turn + lines_L[line] + _TURN * rng.normal()
                    prompt = 0.5 * level + 0.3 * rng.normal()
                    message = f"line {line}"
                    values = (level, level, level, 20, message, False, prompt)
                    turns.append(TurnPoint("none", domain, name, f"{name}-{talk}", turn, *values))
                harm = float(rng.random() < _chance(level))
                ends.append(HarmPoint("none", domain, name, level, harm))
    return turns, ends


def _chance(level: Floats | float) -> Floats:
    return np.asarray(1 / (1 + np.exp(1 + 1.5 * np.asarray(level))))


@cache
def _harm_of(domain: str) -> float:
    """The share of harm among all people there could be."""
    fall = 0.0 if domain == NEUTRAL_DOMAIN else _FALL
    spread = (_PERSON**2 + _TALK**2 + _TURN**2) ** 0.5
    rng = np.random.default_rng(1)
    lines_L = 0.3 * np.random.default_rng(0).normal(size=_LINES)
    levels_N = _DOMAINS[domain] - fall * (_TURNS - 1) + spread * rng.normal(size=200_000)
    return float(_chance(levels_N + rng.choice(lines_L, len(levels_N))).mean())


# --- what Keel states ---


def _talked(people: int, rng: Generator) -> Mapping[str, Statement]:
    """Levels, changes, shares of harm, and how levels go with it, of one domain."""
    turns, ends = _points(people, rng)
    lines = 0.3 * float(np.random.default_rng(0).normal(size=_LINES).mean())
    path = next(
        path
        for path in domain_paths(turns)
        if (path.domain, path.reading) == ("therapy", "with history")
    )
    level = _DOMAINS["therapy"] - _FALL * (_TURNS - 1)
    rates = {rate.domain: rate for rate in harm_rates(ends)}
    rate, rare = rates["therapy"], rates["coding"]
    over = _harm_of("therapy") - _harm_of(NEUTRAL_DOMAIN)
    assert rate.over_neutral is not None
    correlations = {row.kind: row for row in harm_correlations(ends, draws=200)}
    means_ND = np.array([[point.with_history, *rng.normal(size=_HIDDEN - 1)] for point in turns])
    who = [point.person for point in turns]
    (share,) = space_shares("none", means_ND, who, np.eye(_HIDDEN)[:1], [1])
    within, between = (correlations.get(f"{kind} domains") for kind in ("within", "between"))
    return {
        "level of a turn": Known(path.levels[-1], level + lines),
        "over neutral": Known(path.over_neutral[-1], level - _DOMAINS[NEUTRAL_DOMAIN]),
        "change a turn": path.slope,
        "change a turn over neutral": path.slope_over_neutral,
        "share of harm": Known(rate.rate, _harm_of("therapy")),
        "rare share of harm": Known(rare.rate, _harm_of("coding")),
        "share of harm over neutral": Known(rate.over_neutral, over),
        "level with harm, within domains": None if within is None else within.r,
        "level with harm, between domains": None if between is None else between.r,
        "slope of harm, within domains": None if within is None else within.slope,
        "prompt's last token with the level": prompt_correlation(turns),
        "share of variance along PC1": share.share,
    }


def _worded(people: int, rng: Generator) -> Mapping[str, Statement]:
    """What words say of the next level, and shifts of clusters of messages without one."""
    turns, _ = _points(people, rng)
    words_LW = np.random.default_rng(2).normal(size=(_LINES, _WORDS))

    def embed(texts: list[str]) -> Floats:
        return np.stack([words_LW[int(text.split()[1])] for text in texts])

    rows = predict_levels(MessageTable.of(turns, embed), permutations=3)
    by_name = {f"{row.target}: {row.columns}": row.r2 for row in rows if not row.is_in_sample}
    stated: dict[str, Statement] = {f"R², {name}": r2 for name, r2 in by_name.items()}
    unrelated = [_with_words(point, rng) for point in turns]
    table = MessageTable.of(unrelated, embed)
    found = cluster_messages(table, lambda texts, codes, count: [str(k) for k in range(count)])
    stated["q of a cluster, least"] = min((each.q_value for each in found), default=None)
    return stated


def _with_words(point: TurnPoint, rng: Generator) -> TurnPoint:
    """The turn with a message that has nothing to do with its level."""
    level = point.with_history
    values = (level, level, level, 20, f"line {int(rng.integers(_LINES))}", False, point.prompt)
    return TurnPoint("none", point.domain, point.person, point.conversation, point.turn, *values)
