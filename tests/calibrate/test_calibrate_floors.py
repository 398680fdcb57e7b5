"""Floors lie where they are said to, fire as often as they are said to, and cost what is said."""

import pytest
import torch

from keel.calibrate import (
    Band,
    CalibrateSettings,
    calibrate_floors,
    choose_rollouts,
    floors_at_deviation,
    floors_at_percentile,
    read_projections,
)
from keel.calibrate.projections import Projections, layer_calibration
from keel.errors import TooFewSamplesError, UsageError
from keel.testing import FakeEngine
from keel.types import (
    Conversation,
    Message,
    Prompt,
    Rollout,
)

WORDS = tuple("the sea is wide and the lamp is lit so come in and sit with me a while".split())


def rollouts(role: str, count: int, system: str | None = None) -> list[Rollout]:
    made = []
    for n in range(count):
        messages = (*([Message("system", system)] if system else []), Message("user", f"say {n}"))
        text = " ".join((*WORDS[n:], *WORDS[:n]))  # no two answers alike: no ties
        prompt = Prompt(f"{role}/p0/q{n}", Conversation(messages), role)
        made.append(Rollout(prompt, text, tuple(range(len(text.split()))), "stop"))
    return made


DEFAULT = rollouts("default", 12)
GHOSTS = rollouts("ghost", 12, "you are a ghost")


@pytest.fixture
def engine():
    # Noise as large as the gap, so that the two kinds of answer overlap.
    return FakeEngine(layers=10, noise=0.8)


def projections(values_default, values_roles) -> Projections:
    default, roles = (torch.tensor(v)[:, None] for v in (values_default, values_roles))
    return Projections(default, roles, default, roles)


def test_a_percentile_floor_is_the_percentile_of_all_tokens_together():
    one = projections([3.0, 4.0], [0.0, 1.0, 2.0])
    axis = FakeEngine(layers=1).axis
    floors = floors_at_percentile(one, axis, Band(0, 1), 75)
    # Of 0, 1, 2, 3, 4 the 75th percentile is 3: three quarters of the way up, assistant-ward.
    assert floors.floors[0].value == pytest.approx(3.0)
    assert floors.name == "layers_0:1-p75"
    assert torch.allclose(floors.floors[0].direction, axis.direction[0])


def test_a_token_at_the_floor_is_not_under_it():
    # Of 0, 1, 2, 3, 4 three lie below 3: a floor at 3 moves those and no other.
    one = projections([3.0, 4.0], [0.0, 1.0, 2.0])
    assert one.share_under(0, 3.0) == pytest.approx(0.6)


def test_a_deviation_floor_hangs_from_the_defaults_mean():
    one = projections([1.0, 2.0, 3.0], [-50.0])
    floors = floors_at_deviation(one, FakeEngine(layers=1).axis, Band(0, 1), 2)
    # Mean 2, sample standard deviation 1; the roles do not matter.
    assert floors.floors[0].value == pytest.approx(0.0)
    assert floors.name == "layers_0:1-k2"


def test_read_projections_are_the_planted_ones():
    engine = FakeEngine(layers=10, noise=0.0)
    found = read_projections(engine, engine.axis, DEFAULT, GHOSTS)
    assert found.default_NL.shape == (sum(len(r.token_ids) for r in DEFAULT), 10)
    # A persona of 1 projects to layer + 1, a ghost's 0 to 0, at every token.
    heights = torch.arange(1.0, 11.0)
    assert torch.allclose(found.default_NL, heights.expand_as(found.default_NL), atol=1e-5)
    assert torch.allclose(found.roles_NL, torch.zeros_like(found.roles_NL), atol=1e-5)


def test_nominal_firing_is_the_percentile_and_realised_firing_is_less(engine):
    """Layers above the first see a stream that those below have raised already."""
    settings = CalibrateSettings(bands=(Band(4, 8),), percentiles=(75.0,), priced_rollouts=12)
    found = calibrate_floors(engine, engine.axis, default=DEFAULT, roles=GHOSTS, settings=settings)
    setting = found.setting
    for layer in range(4, 8):
        assert setting.nominal_firing[layer] == pytest.approx(0.75, abs=0.01)
    assert setting.realised_firing[4] == pytest.approx(0.75, abs=0.01)
    assert all(setting.realised_firing[n] < setting.nominal_firing[n] - 0.05 for n in (5, 6, 7))


def test_higher_floors_cost_more_and_raise_roles_more(engine):
    settings = CalibrateSettings(bands=(Band(4, 8),), percentiles=(25.0, 50.0, 75.0, 90.0))
    found = calibrate_floors(engine, engine.axis, default=DEFAULT, roles=GHOSTS, settings=settings)
    for name in ("kl_default", "kl_roles", "shift_gaps", "firing_rate"):
        values = [getattr(s, name) for s in found.settings]
        assert values == sorted(values)
        assert values[0] < values[-1]
    assert all(s.kl_roles > s.kl_default for s in found.settings)


def test_a_floor_far_below_everything_costs_nothing_and_does_nothing(engine):
    settings = CalibrateSettings(bands=(Band(4, 8),), percentiles=(), deviations=(100.0,))
    found = calibrate_floors(engine, engine.axis, default=DEFAULT, roles=GHOSTS, settings=settings)
    setting = found.setting
    assert (setting.kl_default, setting.shift_gaps, setting.firing_rate) == (0, 0, 0)
    assert any("under 15\xa0%" in w for w in found.warnings)


def test_a_floor_above_everything_is_warned_of(engine):
    settings = CalibrateSettings(bands=(Band(4, 5),), percentiles=(99.0,), price_bound=1e9)
    found = calibrate_floors(engine, engine.axis, default=DEFAULT, roles=GHOSTS, settings=settings)
    assert any("over 80\xa0%" in w for w in found.warnings)


def test_the_sample_does_not_depend_on_the_order_of_rollouts():
    some = choose_rollouts(DEFAULT, 5, seed=1)
    assert some == choose_rollouts(reversed(DEFAULT), 5, seed=1)
    assert some != choose_rollouts(DEFAULT, 5, seed=2)
    assert len(choose_rollouts(DEFAULT, 99, seed=1)) == 12


def test_empty_answers_are_not_sampled():
    silent = [Rollout(r.prompt, "", (), "stop") for r in DEFAULT[:6]]
    assert choose_rollouts([*silent, *DEFAULT[6:]], 99, seed=1) == choose_rollouts(
        DEFAULT[6:], 99, seed=1
    )


def test_of_a_long_conversation_the_last_answer_is_read():
    """What the prompt holds of earlier turns is no answer of this run."""
    engine = FakeEngine(noise=0.0)
    earlier = Conversation((Message("user", "hello"), Message("assistant", "good day to you")))
    prompt = Prompt("ghost/p0/q0", earlier.with_user("be a ghost now"), "ghost")
    found = read_projections(engine, engine.axis, DEFAULT, [Rollout(prompt, "boo", (1,), "stop")])
    # One token, of the ghost that speaks at the end; four of the default would project to 1 to 4.
    assert torch.allclose(found.roles_NL, torch.zeros(1, 4), atol=1e-6)
    assert torch.allclose(found.roles_means_NL, torch.zeros(1, 4), atol=1e-6)


def test_the_share_of_the_defaults_own_answers_under_each_floor_is_kept():
    """Means of default answers at 1, 2, 3 and 4: a floor at 2.5 has half of them under it."""
    means = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    one = Projections(means, means, means, means)
    assert one.default_share_under(0, 2.5) == 0.5


def test_price_effect_and_distance_have_intervals(engine):
    settings = CalibrateSettings(bands=(Band(4, 8),), percentiles=(75.0,), priced_rollouts=12)
    found = calibrate_floors(engine, engine.axis, default=DEFAULT, roles=GHOSTS, settings=settings)
    setting = found.setting
    for interval, value in (
        (setting.price, setting.kl_default),
        (setting.effect, setting.shift_gaps),
        (setting.distance, setting.distance.value),
    ):
        assert interval.value == value
        assert interval.low <= value <= interval.high
    assert setting.distance.value < found.uncapped_distance
    assert set(setting.default_under) == {4, 5, 6, 7}
    assert len(setting.role_gaps) == len(found.role_gaps) == len(found.default_gaps) == 12


def test_calibration_without_default_answers_is_refused(engine):
    with pytest.raises(TooFewSamplesError, match="0 default and 12 role answers"):
        calibrate_floors(engine, engine.axis, default=[], roles=GHOSTS)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"percentiles": (0.0,)}, "expected 1 to under 100"),
        ({"percentiles": (101.0,)}, "expected 1 to under 100"),
        ({"percentiles": ()}, "nothing to try"),
        ({"price_bound": 0.0}, "above 0 nats"),
    ],
)
def test_settings_that_make_no_sense_are_refused(bad, message):
    with pytest.raises(UsageError, match=message):
        CalibrateSettings(**bad)


def test_histograms_hold_the_share_of_tokens_of_each_kind():
    one = projections([1.0] * 50 + [2.0] * 50, [0.0] * 100)
    layer = layer_calibration(one, 0, [33])
    # 0.2 to 99.8 % of the tokens lie between the edges: all of them, here.
    assert sum(layer.default_share) == pytest.approx(1.0)
    assert sum(layer.role_share) == pytest.approx(1.0)
    assert len(layer.bin_edges) == len(layer.default_share) + 1
    assert layer.token_percentiles[33] == pytest.approx(0.0)
    assert layer.default_mean == pytest.approx(1.5)
    # 50 ones and 50 twos: variance 100 × 0.25 / 99. The roles, all at 0, fill the lowest bin.
    assert layer.default_sd == pytest.approx(0.5025, abs=1e-4)
    assert (layer.default_share[0], layer.role_share[0]) == (0.0, 1.0)


def test_percentiles_are_kept_of_tokens_and_of_responses():
    """The paper's are of responses, whose means lie closer together than their tokens."""
    tokens, means = torch.tensor([[0.0], [4.0]]), torch.tensor([[2.0]])
    layer = layer_calibration(Projections(tokens, tokens, means, means), 0)
    assert (layer.token_percentiles[5], layer.token_percentiles[95]) == (0.0, 4.0)
    assert (layer.response_percentiles[5], layer.response_percentiles[95]) == (2.0, 2.0)


def test_progress_rises_with_each_answer_compared_and_reaches_its_total(engine):
    told = []
    settings = CalibrateSettings(bands=(Band(4, 8),), percentiles=(50.0, 75.0))
    calibrate_floors(
        engine,
        engine.axis,
        default=DEFAULT,
        roles=GHOSTS,
        settings=settings,
        on_progress=lambda done, total: told.append((done, total)),
    )
    steps = [done for done, total in told if total == 100]
    assert len(steps) == len(told)
    assert steps == sorted(steps)
    assert len(set(steps)) > 10
    assert steps[-1] == 100
