"""What a run costs, worked out by hand."""

from dataclasses import replace

import pytest

from keel.errors import UsageError
from keel.prompts import (
    PromptSettings,
    load_library,
    make_prompts,
    price_roles,
    price_traits,
    settings_for,
)


def test_the_papers_roles_cost_330_000_answers_and_the_default_1200():
    roles, default = price_roles(load_library(), settings_for("paper"), 512)
    assert roles.answers == 275 * 240 * 5 == 330_000
    assert default.answers == 240 * 5
    assert roles.new_tokens == 330_000 * 512


def test_the_papers_traits_cost_576_000_answers():
    """240 traits × 240 questions × 5 pairs × 2 sides, as in Lu et al. 2026."""
    assert price_traits(load_library(), settings_for("paper"), 512).answers == 576_000


@pytest.mark.parametrize("scale", ["smoke", "small"])
def test_the_price_is_that_of_the_prompts_that_are_made(scale):
    prompts = make_prompts(load_library(), settings_for(scale), model_name="Tiny")
    assert sum(p.answers for p in price_roles(load_library(), settings_for(scale), 9)) == len(
        prompts
    )


def test_fewer_traits_under_one_pair_a_question_cost_two_answers_a_question():
    settings = PromptSettings(questions=12, prompts_per_question=1)
    assert price_traits(load_library(), replace(settings, traits=30), 64).answers == 30 * 12 * 2


def test_hours_are_tokens_by_speed():
    roles, _ = price_roles(load_library(), PromptSettings(10, 10, 1), 360)
    assert roles.hours(tokens_per_s=10.0) == 1.0  # 100 answers × 360 tokens = 36,000


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_speed_that_is_none_is_refused(speed):
    roles, _ = price_roles(load_library(), PromptSettings(10, 10, 1), 360)
    with pytest.raises(UsageError, match="expected above 0"):
        roles.hours(speed)


def test_more_than_there_is_is_refused():
    with pytest.raises(UsageError, match="241 questions are asked for, but the library has 240"):
        price_roles(load_library(), replace(PromptSettings(), questions=241), 64)
    with pytest.raises(UsageError, match="241 traits are asked for"):
        price_traits(load_library(), PromptSettings(traits=241), 64)
