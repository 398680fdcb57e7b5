"""Studies of what is fitted to conversations: later turns' marks, an alarm's checks, replays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from numpy.random import Generator
from scipy.stats import norm

from benchmarks.alarm.few import TRUTH
from benchmarks.coverage.studies import Known, Statement, Study
from keel.alarm import Alarm, ConversationMeans, TurnMean, estimated, fit_alarm, turn_levels
from keel.alarm.checks import lag_interval
from keel.drift import Gauge, replay
from keel.statistics import Floats
from keel.types import (
    AssistantAxis,
    Floor,
    Floors,
    ModelIdentity,
    ReplayedAnswer,
    ReplayedMessage,
    Sampling,
)

_LAGGED = 0.4
"""Planted correlation of a turn with the next."""
_ALARM = replace(TRUTH, rate=0.05)
_IDENTITY = ModelIdentity("planted", 1, 2)
_AXIS = AssistantAxis(
    vector=torch.tensor([[1.0, 0.0]]),
    layer=0,
    default_projection=torch.tensor([1.0]),
    role_projection=torch.tensor([0.0]),
    residual_norm=torch.tensor([1.0]),
    identity=_IDENTITY,
)
_FLOORS = Floors((Floor(0, torch.tensor([1.0, 0.0]), 0.0),), "planted")
_LEVEL, _ANSWER, _TOKEN, _TOKENS = 0.2, 0.3, 2.0, 48
"""Mean level of a turn over draws, its standard deviation from draw to draw, that of a token, in
gap units, and the tokens of an answer; the capped arm's are raised to 0."""


def studies() -> Iterator[Study]:
    """Conversations as few as an alarm takes and as many as are advised; replays by draws."""
    for count, turns in ((10, 6), (40, 6)):
        words = f"{count} conversations of {turns} turns"
        yield Study("alarms", words, partial(_calibrated, count, turns), 400)
    for draws in (2, 5, 20):
        yield Study("replays", f"{draws} draws", partial(_replayed, draws), 400)


def _calibrated(count: int, turns: int, rng: Generator) -> Mapping[str, Statement]:
    """What an alarm states of its own conversations, and whether a new turn is marked.

    Being marked counts as the rejection of a true null. The held-out rate's truth is what data of
    this size give on average.
    """
    talks = _talks(count, turns, rng)
    fit = fit_alarm(_ALARM, talks).fit
    assert fit is not None
    lagged = _talks(count, turns, rng, lag=_LAGGED)
    levels = turn_levels(_ALARM, talks)
    gauge = Gauge(_AXIS, 0, levels=replace(levels, layer=0))
    (new,) = _talks(1, turns, rng)
    turn = new.turns[2]
    reading = gauge.reading(turn.turn, torch.full((turn.tokens, 1), turn.mean), "")
    assert reading is not None
    marked = None if reading.lowest_usual_gaps is None else float(not reading.is_low)
    return {
        "a new default conversation's third turn is marked": marked,
        "held-out rate of alarms": fit.held_out_rate,
        "correlation of neighbouring turns, of none": Known(lag_interval(*_fitted(talks)), 0.0),
        f"correlation of neighbouring turns, near {_LAGGED:g}": lag_interval(*_fitted(lagged)),
    }


def _fitted(talks: list[ConversationMeans]) -> tuple[Alarm, list[ConversationMeans]]:
    return estimated(_ALARM, talks)[0], talks


def _talks(count: int, turns: int, rng: Generator, *, lag: float = 0.0) -> list[ConversationMeans]:
    """Conversations of the planted alarm, whose turns' own levels have this autocorrelation."""
    last = len(_ALARM.expected) - 1
    talks = []
    for number in range(count):
        own, before = _ALARM.between * rng.normal(), rng.normal()
        said = []
        for turn in range(turns):
            before = lag * before + (1 - lag**2) ** 0.5 * rng.normal()
            level = _ALARM.expected[min(turn, last)] + own + _ALARM.within * before
            tokens = 8 * int(rng.integers(2, 10))
            said.append(
                TurnMean.of(turn, (level + _ALARM.token * rng.normal(size=tokens)).tolist())
            )
        talks.append(ConversationMeans(str(number), tuple(said)))
    return talks


@dataclass(frozen=True)
class _Identity:
    """What a replay of answers that are all known asks of its engine."""

    identity: ModelIdentity = _IDENTITY


def _replayed(draws: int, rng: Generator) -> Mapping[str, Statement]:
    """A turn over the draws of both arms, whose answers differ, and what the capped arm gains."""
    plain_DT, held_DT = (
        _LEVEL + _ANSWER * rng.normal(size=(draws, 1)) + _TOKEN * rng.normal(size=(draws, _TOKENS))
        for _ in range(2)
    )
    arms = [tuple(_answer(row_T) for row_T in of_DT) for of_DT in (plain_DT, held_DT.clip(0.0))]
    said = ReplayedMessage(*arms, fired={}, slots={})
    of_replay = replay(
        cast(Any, _Identity()),
        ["?"],
        _AXIS,
        floors=_FLOORS,
        sampling=Sampling(),
        seed=0,
        draws=draws,
        answered=[said],
    )
    spread = of_replay.turns[0].spread
    assert spread is not None
    wide = (_ANSWER**2 + _TOKEN**2) ** 0.5
    z = _LEVEL / wide
    capped = float(_LEVEL * norm.cdf(z) + wide * norm.pdf(z))  # the mean of max(0, token)
    return {
        "replay: uncapped": Known(spread.uncapped, _LEVEL),
        "replay: capped": Known(spread.capped, capped),
        "replay: capped − uncapped": Known(spread.difference, capped - _LEVEL),
    }


def _answer(levels_T: Floats) -> ReplayedAnswer:
    return ReplayedAnswer("!", (0,), tuple(levels_T.tolist()), False)
