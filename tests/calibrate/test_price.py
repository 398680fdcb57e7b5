"""What a setting costs and brings, worked out by hand on a planted stream without noise.

A default token projects to layer + 1 and a ghost's to 0; the planted KL is half the squared shift
at the last layer; what one layer is moved by, later layers keep. One gap at the last layer is 4.
"""

from typing import Any

import pytest
import torch

from keel.calibrate import (
    Band,
    CalibrateSettings,
    calibrate_floors,
    floors_at_percentile,
    price_settings,
    read_projections,
)
from keel.calibrate.floors import Candidate, holding
from keel.calibrate.price import effect_interval, first_token_shares, price_interval
from keel.errors import NotAppliedError
from keel.geometry import unit
from keel.testing import FakeEngine
from keel.types import Conversation, Floor, Floors, Message, PricedSetting, Prompt, Rollout
from tests.engines import small


def rollouts(role: str, count: int, system: str | None = None) -> list[Rollout]:
    head = [Message("system", system)] if system else []
    asked = [Conversation((*head, Message("user", f"say {n}"))) for n in range(count)]
    prompts = [
        Prompt(f"{role}/p0/q{n}", talk, role, question_index=n) for n, talk in enumerate(asked)
    ]
    return [Rollout(p, "one two", (n, n + 1), "stop") for n, p in enumerate(prompts)]


DEFAULT = rollouts("default", 3)
GHOSTS = rollouts("ghost", 2, "you are a ghost")


def floor(engine: FakeEngine, layer: int, value: float) -> Floor:
    return Floor(layer, engine.axis.direction[layer], value)


def price(engine: FakeEngine, *settings: tuple[Floor, ...]) -> list[PricedSetting]:
    projections = read_projections(engine, engine.axis, DEFAULT, GHOSTS)
    candidates = [Candidate(Floors(one, f"s{n}"), 75.0) for n, one in enumerate(settings)]
    prices = price_settings(
        engine, engine.axis, projections, candidates, default=DEFAULT, roles=GHOSTS
    )
    return list(prices.settings)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(noise=0.0)


def test_price_and_effect_are_those_worked_out_by_hand(engine):
    (found,) = price(engine, (floor(engine, 1, 3.0),))
    # At layer 1 the default rises from 2 to 3, a ghost from 0 to 3, and both stay so.
    assert found.kl_default == pytest.approx(0.5, abs=1e-4)
    assert found.kl_roles == pytest.approx(4.5, abs=1e-4)
    assert found.shift_gaps == pytest.approx(3 / 4, abs=1e-4)


@pytest.mark.parametrize(("height", "farther"), [(3.0, 0.0), (7.9, 0.0), (8.1, 1.0), (-1.0, 0.0)])
def test_answers_pushed_farther_past_the_default_than_they_were_are_counted(
    engine, height, farther
):
    """A ghost's 0 is a gap (4) from the default's 4 at the last layer: so is 8, on the other side.
    Left where it is, it is no farther."""
    (found,) = price(engine, (floor(engine, 3, height),))
    assert found.farther.value == farther
    assert 0 <= found.farther.low <= farther <= found.farther.high <= 1


def test_firing_is_told_for_each_layer_before_and_under_the_band(engine):
    (found,) = price(engine, (floor(engine, 1, 1.0), floor(engine, 2, 0.5)))
    # Ghosts have 4 of 10 tokens and lie at 0: under both floors, until the first has raised them.
    assert found.nominal_firing == pytest.approx({1: 0.4, 2: 0.4})
    assert found.realised_firing == pytest.approx({1: 0.4, 2: 0.0})
    assert found.firing_rate == pytest.approx(0.2)


def test_each_setting_has_its_own_price(engine):
    low, high = price(engine, (floor(engine, 1, 1.0),), (floor(engine, 1, 4.0),))
    # Lifts of a ghost: 1 and 4; of the default: 0 and 2.
    assert (low.kl_default, high.kl_default) == pytest.approx((0.0, 2.0), abs=1e-4)
    assert (low.kl_roles, high.kl_roles) == pytest.approx((0.5, 8.0), abs=1e-4)
    assert (low.shift_gaps, high.shift_gaps) == pytest.approx((0.25, 1.0), abs=1e-4)


def test_an_engine_that_leaves_the_floors_out_is_found_out(engine):
    """Its price would be nothing, and so would be the harm it saw."""
    ignoring = FakeEngine(unreached_layers=[1])
    with pytest.raises(NotAppliedError, match=r"layers \[1\] saw no token"):
        price(ignoring, (floor(engine, 1, 3.0),))


def test_no_more_answers_are_priced_than_asked_for(engine):
    compared = []
    honest = engine.divergence

    def divergence(conversations, settings):
        compared.extend(conversations)
        return honest(conversations, settings)

    engine.divergence = divergence
    settings = CalibrateSettings(bands=(Band(1, 3),), percentiles=(75.0,), priced_rollouts=1)
    calibrate_floors(engine, engine.axis, default=DEFAULT, roles=GHOSTS, settings=settings)
    # One answer of each kind.
    assert [talk.system for talk in compared] == [None, "you are a ghost"]


def calibrate(engine: FakeEngine, **settings: Any) -> tuple[str, ...]:
    chosen = CalibrateSettings(bands=(Band(1, 3),), **settings)
    found = calibrate_floors(engine, engine.axis, default=DEFAULT, roles=GHOSTS, settings=chosen)
    return found.warnings


def test_a_price_over_the_bound_is_summary():
    # With noise some of the default's tokens lie below the 90th percentile.
    warning, *_ = calibrate(FakeEngine(noise=0.5), percentiles=(90.0,), price_bound=1e-9)
    assert warning.startswith("Of no setting is it shown that it costs less than 1e-09 nats")


def test_floors_without_effect_are_told(engine):
    idle, useless = calibrate(engine, percentiles=(1.0,))
    # The 1st percentile is a ghost's own place: it raises nobody.
    assert "fires on 0\xa0%" in idle
    assert useless.startswith("layers_1:3-p1 is not shown to bring role-playing answers nearer")


def test_floors_belong_to_the_model_of_their_axis(engine):
    projections = read_projections(engine, engine.axis, DEFAULT, GHOSTS)
    floors = floors_at_percentile(projections, engine.axis, Band(1, 3), 75)
    assert floors.identity == engine.identity
    assert "75th assistant-ward" in floors.provenance["threshold"]


def test_the_interval_of_a_price_is_students_over_answers_that_share_nothing():
    """Of 0.02, 0.04, ... 0.18 the mean is 0.1, the standard error 0.0183, and t of 8 is 2.306."""
    kls = [0.02 * n for n in range(1, 10)]
    answers = [rollouts(f"role {n}", n + 1)[-1] for n in range(9)]
    interval = effect_interval(kls, answers)
    assert interval.value == pytest.approx(0.1)
    assert interval.high - 0.1 == pytest.approx(2.306 * 0.0183, rel=0.02)


def test_a_price_reaches_farther_up_than_down_and_not_below_nothing():
    answers = [rollouts(f"role {n}", n + 1)[-1] for n in range(4)]
    price = price_interval([0.001, 0.002, 0.003, 0.2], answers)
    assert 0 < price.low < price.value
    assert price.high - price.value > 2 * (price.value - price.low)


def test_a_price_of_one_answer_bounds_no_other_answers():
    price = price_interval([0.02], rollouts("default", 1))
    assert (price.value, price.low, price.high) == (0.02, 0, float("inf"))


def test_answers_to_one_question_tell_no_more_than_one_of_it():
    """Two questions, five answers each: as good as two numbers, whose t has one degree."""
    answers = [*rollouts("default", 1) * 5, *[rollouts("default", 2)[1]] * 5]
    effect = effect_interval([1.0] * 5 + [2.0] * 5, answers)
    assert effect.high - effect.value == pytest.approx(12.706 * 0.5, rel=1e-3)


def test_floors_may_spare_the_first_token_and_say_so():
    engine = FakeEngine(noise=0.0)
    settings = CalibrateSettings(bands=(Band(1, 2),), percentiles=(75.0,), tokens="not_first")
    made = calibrate_floors(engine, engine.axis, default=DEFAULT, roles=GHOSTS, settings=settings)
    assert {floor.tokens for floor in made.setting.floors} == {"not_first"}
    assert made.setting.floors.provenance["tokens"] == "not_first"


def test_the_first_tokens_share_of_the_push_is_that_of_a_pass_by_hand():
    """Of a floor above everything at one layer, over one conversation."""
    made = small.engine()
    talk = small.answered(small.answers(made))[0]
    direction = unit(torch.randn(32, generator=torch.Generator().manual_seed(0)))
    low, high = (Floors((Floor(1, direction, height),), "x") for height in (-1e6, 9.0))
    spared = holding(high, "not_first")
    ids = torch.tensor([made.template.transcript(talk).token_ids])
    with torch.inference_mode():
        states = made.model(input_ids=ids, output_hidden_states=True).hidden_states[2]
    lifts_T = (9.0 - states[0].float() @ direction).clamp_min(0)
    shares = first_token_shares(made, [low, high, spared], [talk])
    assert shares == pytest.approx([0.0, float(lifts_T[0] / lifts_T.sum()), 0.0], rel=1e-3)
