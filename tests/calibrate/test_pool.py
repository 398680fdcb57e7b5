"""Of which answers a percentile is taken: as many of the default as of roles, or as they fall."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keel.calibrate import (
    Band,
    CalibrateSettings,
    calibrate_floors,
    choose_calibration,
    read_projections,
    spread_over_questions,
)
from keel.errors import TooFewSamplesError
from keel.testing import FakeEngine
from keel.types import Conversation, Message, Prompt, Rollout

PAPER = CalibrateSettings(pool="paper", rollouts=20, bands=(Band(1, 2),), percentiles=(50.0,))


def answers(role: str, count: int, system: str | None = None) -> list[Rollout]:
    head = [Message("system", system)] if system else []
    talks = [Conversation((*head, Message("user", f"say {n}"))) for n in range(count)]
    prompts = [Prompt(f"{role}/p0/q{n}", talk, role) for n, talk in enumerate(talks)]
    return [Rollout(p, "one two", (n, n + 1), "stop") for n, p in enumerate(prompts)]


DEFAULT = answers("default", 12)
GHOSTS = answers("ghost", 60, "you are a ghost")
TRAITS = [*answers("trait:calm/+", 60, "be calm"), *answers("trait:calm/-", 60, "be a ghost")]


def test_few_answers_are_of_as_many_questions_as_can_be():
    asked = [2, 2, 0, 2, 1, 0]
    answers_N = [
        replace(answer, prompt=replace(answer.prompt, question_index=question))
        for answer, question in zip(DEFAULT, asked, strict=False)
    ]
    spread = spread_over_questions(answers_N)
    assert [answer.prompt.question_index for answer in spread] == [2, 0, 1, 2, 0, 2]
    assert {answer.prompt.id for answer in spread} == {answer.prompt.id for answer in answers_N}


def test_the_papers_pool_holds_default_roles_and_traits_as_often_as_they_fall():
    """12, 60 and 120 of 192: of 40 about 2.5, 12.5 and 25, give or take 1.5, 2.9 and 3.1 (one
    standard deviation); three are allowed: a false alarm in one of 200 seeds, and this seed is
    fixed."""
    sample = choose_calibration(DEFAULT, GHOSTS, TRAITS, PAPER)
    assert sample.pool is not None
    assert len(sample.pool) == 40
    kinds = [rollout.prompt for rollout in sample.pool]
    assert sum(p.is_default for p in kinds) <= 7
    assert 4 <= sum(p.is_role for p in kinds) <= 21
    assert 16 <= sum(p.side is not None for p in kinds) <= 34
    # Prices and deviations still have as many of the default as of roles.
    assert (len(sample.default), len(sample.roles)) == (12, 20)


def test_todays_pool_is_as_it_was():
    sample = choose_calibration(DEFAULT, GHOSTS, TRAITS, replace(PAPER, pool="balanced"))
    assert sample.pool is None
    assert {r.prompt.role for r in (*sample.default, *sample.roles)} == {"default", "ghost"}


def test_percentiles_are_of_the_pool_and_all_else_of_default_and_roles():
    engine = FakeEngine(noise=0.0)
    read = read_projections(engine, engine.axis, DEFAULT[:2], GHOSTS[:2], [*GHOSTS[:3], DEFAULT[0]])
    # At layer 1 the default's tokens project to 2 and the ghosts' to 0.
    assert read.percentile(1, 50) == pytest.approx(0.0, abs=1e-5)
    assert read.share_under(1, 1.0) == pytest.approx(0.75)
    assert torch.allclose(read.default_NL[:, 1], torch.tensor(2.0), atol=1e-5)
    assert read.default_NL.shape[0] == read.roles_NL.shape[0] == 4


def test_a_floor_of_the_papers_pool_lies_lower_and_says_of_what_it_is():
    """Half of today's pool is the default, at 2; of the paper's a sixteenth."""
    engine, floors = FakeEngine(noise=0.5), {}
    for pool in ("balanced", "paper"):
        made = calibrate_floors(
            engine,
            engine.axis,
            default=DEFAULT,
            roles=GHOSTS,
            traits=TRAITS[60:],
            settings=replace(PAPER, pool=pool, rollouts=12),
        )
        assert made.pool == pool
        (floors[pool],) = made.setting.floors.floors
        assert ("as they fall" in made.setting.floors.provenance["threshold"]) == (pool == "paper")
    assert floors["paper"].value < floors["balanced"].value


def test_the_papers_pool_without_traits_is_refused():
    with pytest.raises(TooFewSamplesError, match="no answers of traits.*--what both"):
        choose_calibration(DEFAULT, GHOSTS, [], PAPER)
