"""Studies of floors' prices and effects: skewed costs of a few answers, planted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
from numpy.random import Generator

from benchmarks.coverage.studies import Statement, Study
from keel.calibrate import (
    Band,
    GridPoint,
    ScreenLimits,
    prune_settings,
    spread_over_questions,
)
from keel.calibrate.choosing import distance_interval
from keel.calibrate.price import answer_clusters, effect_interval, price_interval
from keel.statistics import Clusters, Floats
from keel.types import (
    Conversation,
    Floor,
    Floors,
    Message,
    Prompt,
    Rollout,
    ScreenedSetting,
    ScreenReading,
)

_DRAWS = 400
_PROMPTS, _ROLES = 5, 24
_PRICE, _QUESTION, _ANSWER = 0.02, 0.5, 0.5
"""Median price in nats; log standard deviations of questions and of answers to one, about as in a
model of 135M."""
_RISE, _SPREAD = 0.4, 0.3
"""Mean rise in gaps; standard deviation of roles, of questions, and of single answers."""
_APART = 1.0
"""How far the default stands above held answers, in gaps."""
_FLOORS = Floors((Floor(0, torch.tensor([1.0]), 0.0),), "planted")
_WORDS = Conversation((Message("user", "?"), Message("assistant", "!")))


def studies() -> Iterator[Study]:
    """Prices and effects of as many answers of each kind as `--answers` may ask for."""
    for questions, answers in ((5, 12), (14, 8), (14, 12), (14, 24), (40, 24), (40, 100)):
        words = f"{answers} answers to {questions} questions"
        yield Study("prices", words, partial(_priced, questions, answers), _DRAWS, _truths())


def _truths() -> Mapping[str, float]:
    price = float(_PRICE * np.exp((_QUESTION**2 + _ANSWER**2) / 2))
    return {
        "price": price,
        "price, screened": price,
        "effect": _RISE,
        "effect, screened": _RISE,
        "distance from the default": _APART,
    }


def _priced(questions: int, answers: int, rng: Generator) -> Mapping[str, Statement]:
    """What a calibration and a screening state of one setting, on answers drawn from a run's."""
    kinds = [("default", _PROMPTS), *((f"role{n}", 1) for n in range(_ROLES))]
    asked = [
        [
            _answer(kind, system, question)
            for system in range(prompts)
            for question in range(questions)
        ]
        for kind, prompts in kinds
    ]
    default = _drawn(asked[0], answers, rng)
    roles = _drawn([answer for of_role in asked[1:] for answer in of_role], answers, rng)
    kls_N = _PRICE * np.exp(
        _QUESTION * _by_question(default, rng) + _ANSWER * rng.normal(size=answers)
    )
    rises_N = _RISE + _SPREAD * (
        _by_question(roles, rng) + _by_role(roles, rng) + rng.normal(size=answers)
    )
    gaps_N, default_N = (
        level + 0.5 * (_by_question(kind, rng) + rng.normal(size=answers))
        for level, kind in ((0.0, roles), (_APART, default))
    )
    clusters = answer_clusters(roles), answer_clusters(default)
    screened = _screened(kls_N, rises_N, clusters)
    return {
        "price": price_interval(kls_N.tolist(), default),
        "effect": effect_interval(rises_N.tolist(), roles),
        "distance from the default": distance_interval(
            gaps_N.tolist(), default_N.tolist(), clusters
        ),
        "price, screened": screened.price,
        "effect, screened": screened.effect,
    }


def _by_question(answers: list[Rollout], rng: Generator) -> Floats:
    """A standard normal effect for each answer: its question's."""
    effects = rng.normal(size=1 + max(answer.prompt.question_index for answer in answers))
    return np.array([effects[answer.prompt.question_index] for answer in answers])


def _by_role(answers: list[Rollout], rng: Generator) -> Floats:
    """A standard normal effect for each answer: its role's."""
    effects = {answer.prompt.role: rng.normal() for answer in answers}
    return np.array([effects[answer.prompt.role] for answer in answers])


def _drawn(rollouts: list[Rollout], answers: int, rng: Generator) -> list[Rollout]:
    """A calibration's sample, and of that as many as are priced."""
    kept = [rollouts[n] for n in rng.permutation(len(rollouts))[: max(60, answers)]]
    return spread_over_questions(kept)[:answers]


def _answer(role: str, system: int, question: int) -> Rollout:
    prompt = Prompt(f"{role}/p{system}/q{question}", _WORDS, role, system, question)
    return Rollout(prompt, "!", (0,), "stop")


def _screened(
    kls_N: Floats, rises_N: Floats, clusters: tuple[Clusters, Clusters]
) -> ScreenedSetting:
    """The setting as a sweep's screening tells of it; nothing is pruned."""
    point = GridPoint(_FLOORS, Band(0, 1), 1.0)
    reading = ScreenReading("planted", 1.0, tuple(kls_N.tolist()), tuple(rises_N.tolist()))
    limits = ScreenLimits(min_firing=0.0, max_price=1e9)
    (screened,) = prune_settings(
        [point],
        {"planted": reading},
        layers=1,
        limits=limits,
        default=clusters[1],
        roles=clusters[0],
    )
    return screened
