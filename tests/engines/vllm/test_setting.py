"""A setting is its interventions as numbers: the same shifts, the same name for the same keys."""

import math
from dataclasses import replace

import pytest
import torch

from keel.engines.vllm.setting import Setting, Step
from keel.errors import UsageError
from keel.steering import Ablation, Addition, Ceiling, shift
from keel.types import Floor
from tests.engines.vllm.toys import direction

FLOOR = Floor(1, direction(), 2.0)
EACH = [FLOOR, Ceiling(1, direction(), -0.5), Addition(1, direction(), 1.5)]
EACH += [Ablation(1, direction(), 0.25)]
NAMES = ["floor", "ceiling", "addition", "ablation"]


def clamped(step: Step, projection):
    """shift(p) = clamp(slope·p + offset, low − p, high − p), as the module says."""
    wanted = step.slope * projection + step.offset
    return torch.minimum(torch.maximum(wanted, step.low - projection), step.high - projection)


@pytest.mark.parametrize("one", EACH, ids=NAMES)
def test_the_numbers_shift_every_projection_as_the_intervention_does(one):
    projections = torch.cat([8 * torch.randn(1000), torch.tensor([0.0, -0.5, 0.25, 2.0, 1e30])])
    assert torch.equal(clamped(Step.of(one), projections), shift(one, projections))


def test_a_floor_of_minus_infinity_shifts_nothing():
    step = Step.of(replace(FLOOR, value=-math.inf))
    assert not step.is_bound
    assert clamped(step, torch.randn(100)).abs().max() == 0


def test_bounds_move_some_tokens_only_and_the_others_all():
    assert [Step.of(one).is_bound for one in EACH] == [True, True, False, False]


def test_steps_act_by_layer_then_additions_ablations_ceilings_floors():
    setting = Setting.of("x", [replace(FLOOR, layer=3), *EACH, replace(EACH[2], layer=2)])
    kinds = [(step.layer, step.numbers) for step in setting.steps]
    one = [Step.of(EACH[n]).numbers for n in (2, 3, 1, 0)]
    late = [(2, Step.of(EACH[2]).numbers), (3, Step.of(FLOOR).numbers)]
    assert kinds == [*((1, numbers) for numbers in one), *late]
    assert setting.layers == (1, 2, 3)
    assert setting.most_steps == 4


@pytest.mark.parametrize(
    "other",
    [
        replace(FLOOR, layer=2),
        replace(FLOOR, direction=direction(1)),
        replace(FLOOR, direction=-direction()),
        replace(FLOOR, value=2.0000001),
        replace(FLOOR, tokens="generated"),
        Ceiling(1, direction(), 2.0),
        Addition(1, direction(), 2.0),
        Ablation(1, direction(), 2.0),
    ],
)
def test_what_changes_an_activation_changes_fingerprint_and_salt(other):
    mine, theirs = Setting.of("x", [FLOOR]), Setting.of("x", [other])
    assert mine.fingerprint != theirs.fingerprint
    assert mine.salt(None) != theirs.salt(None)


def test_one_more_step_and_another_order_change_the_fingerprint():
    second = Floor(1, direction(1), 2.0)
    found = [[FLOOR], [second], [FLOOR, second], [second, FLOOR], []]
    assert len({Setting.of("x", one).fingerprint for one in found}) == 5


def test_the_name_and_the_type_of_a_number_change_nothing():
    mine = Setting.of("x", [FLOOR])
    theirs = Setting.of("y", [Floor(1, direction(), 2)])  # an int
    assert mine.fingerprint == theirs.fingerprint
    assert mine.salt("mine") == theirs.salt("mine")


@pytest.mark.parametrize("interventions", [EACH, [replace(o, tokens="prompt") for o in EACH], []])
def test_a_setting_comes_back_from_its_bytes(interventions):
    setting = Setting.of("x", interventions)
    back = Setting.from_bytes("x", setting.to_bytes())
    assert back.fingerprint == setting.fingerprint
    assert [(s.layer, s.numbers, s.tokens) for s in back.steps] == [
        (s.layer, s.numbers, s.tokens) for s in setting.steps
    ]
    for mine, theirs in zip(back.steps, setting.steps, strict=True):
        assert torch.equal(mine.direction, theirs.direction)


def test_a_users_own_salt_keeps_his_keys_apart():
    setting = Setting.of("x", [FLOOR])
    assert len({setting.salt(given) for given in (None, "a", "b")}) == 3


def test_without_interventions_the_salt_stays_as_it_came():
    assert [Setting("none", ()).salt(given) for given in (None, "", "mine")] == [None, "", "mine"]


@pytest.mark.parametrize("given", [None, "mine"])
def test_nobody_can_ask_for_the_salt_of_a_setting_without_being_under_it(given):
    """Floors are public: whoever sent `none` with the salt they give could have put unsteered
    keys and values where steered requests look for theirs."""
    theirs = Setting.of("x", [FLOOR]).salt(given)
    assert Setting("none", ()).salt(theirs) != theirs
    assert Setting.of("y", [EACH[1]]).salt(theirs) != theirs


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_a_name_of_no_or_too_many_characters_is_refused(name):
    with pytest.raises(UsageError, match="expected 1 to 200 characters"):
        Setting(name, ())


def test_directions_of_two_models_are_refused():
    with pytest.raises(UsageError, match=r"directions of \[8, 16\] numbers"):
        Setting.of("x", [FLOOR, Floor(2, direction(hidden=8), 1.0)])
