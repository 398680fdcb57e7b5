"""Packed interventions are their numbers, row by row: the same bytes, the same salt for the same
keys."""

import hashlib
from dataclasses import replace

import pytest
import torch

from keel.engines.vllm.packing import PackedInterventions
from keel.errors import UsageError
from keel.steering import Ablation, Addition, Ceiling
from keel.types import Floor
from tests.engines.vllm.toys import direction

FLOOR = Floor(1, direction(), 2.0)
EACH = [FLOOR, Ceiling(1, direction(), -0.5), Addition(1, direction(), 1.5)]
EACH += [Ablation(1, direction(), 0.25)]


def test_rows_act_by_layer_then_additions_ablations_ceilings_floors():
    packed = PackedInterventions.of(
        "x", [replace(FLOOR, layer=3), *EACH, replace(EACH[2], layer=2)]
    )
    floor, ceiling, addition, ablation = (tuple(each.numbers) for each in EACH)
    assert packed.layers_N.tolist() == [1, 1, 1, 1, 2, 3]
    assert [tuple(row) for row in packed.numbers_NK.tolist()] == [
        *(addition, ablation, ceiling, floor),
        *(addition, floor),
    ]
    assert packed.is_bound_N.tolist() == [False, False, True, True, False, True]
    assert packed.layers == (1, 2, 3)
    assert packed.most_per_layer == 4


def test_the_first_token_is_spared_by_all_of_a_setting_or_by_none():
    spared = replace(FLOOR, tokens="not_first")
    assert PackedInterventions.of("x", [spared, replace(spared, layer=2)]).spares_first
    assert PackedInterventions.of("x", [spared, replace(FLOOR, tokens="generated")]).spares_first
    assert not PackedInterventions.of("x", [FLOOR]).spares_first
    assert PackedInterventions.of("x", [spared]).acts_on("prompt").all()
    assert PackedInterventions.of("x", [spared]).acts_on("generated").all()
    with pytest.raises(UsageError, match="'x' leaves the first token alone with some"):
        _ = PackedInterventions.of("x", [spared, replace(FLOOR, layer=2)]).spares_first


def test_the_fingerprint_is_of_the_bytes_that_it_always_was_of():
    """Salts of a shared cache, and of engines in different processes, must agree."""
    v = direction()
    known = hashlib.sha256()
    for numbers in ("0.0, 1.5, -inf, inf", "-1.0, 0.25, -inf, inf"):
        known.update(f"1/all/({numbers})/".encode() + v.numpy().tobytes())
    known.update(b"1/all/(0.0, 0.0, -inf, -0.5)/" + v.numpy().tobytes())
    known.update(b"1/all/(0.0, 0.0, 2.0, inf)/" + v.numpy().tobytes())
    assert PackedInterventions.of("x", EACH).fingerprint == known.hexdigest()


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
    mine, theirs = PackedInterventions.of("x", [FLOOR]), PackedInterventions.of("x", [other])
    assert mine.fingerprint != theirs.fingerprint
    assert mine.salt(None) != theirs.salt(None)


def test_one_more_step_and_another_order_change_the_fingerprint():
    second = Floor(1, direction(1), 2.0)
    found = [[FLOOR], [second], [FLOOR, second], [second, FLOOR], []]
    assert len({PackedInterventions.of("x", one).fingerprint for one in found}) == 5


def test_the_name_and_the_type_of_a_number_change_nothing():
    mine = PackedInterventions.of("x", [FLOOR])
    theirs = PackedInterventions.of("y", [Floor(1, direction(), 2)])  # an int
    assert mine.fingerprint == theirs.fingerprint
    assert mine.salt("mine") == theirs.salt("mine")


@pytest.mark.parametrize("interventions", [EACH, [replace(o, tokens="prompt") for o in EACH], []])
def test_a_setting_comes_back_from_its_bytes(interventions):
    setting = PackedInterventions.of("x", interventions)
    back = PackedInterventions.from_bytes("x", setting.to_bytes())
    assert back.fingerprint == setting.fingerprint
    for name in ("layers_N", "masks_N", "is_bound_N", "numbers_NK", "directions_ND"):
        assert torch.equal(getattr(back, name), getattr(setting, name))


def test_a_users_own_salt_keeps_his_keys_apart():
    setting = PackedInterventions.of("x", [FLOOR])
    assert len({setting.salt(given) for given in (None, "a", "b")}) == 3


def test_without_interventions_the_salt_stays_as_it_came():
    assert [PackedInterventions.none("none").salt(given) for given in (None, "", "mine")] == [
        None,
        "",
        "mine",
    ]


@pytest.mark.parametrize("given", [None, "mine"])
def test_nobody_can_ask_for_the_salt_of_a_setting_without_being_under_it(given):
    """Floors are public: whoever sent `none` with the salt they give could have put unsteered
    keys and values where steered requests look for theirs."""
    theirs = PackedInterventions.of("x", [FLOOR]).salt(given)
    assert PackedInterventions.none("none").salt(theirs) != theirs
    assert PackedInterventions.of("y", [EACH[1]]).salt(theirs) != theirs


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_a_name_of_no_or_too_many_characters_is_refused(name):
    with pytest.raises(UsageError, match="expected 1 to 200 characters"):
        PackedInterventions.none(name)


def test_directions_of_two_models_are_refused():
    with pytest.raises(UsageError, match=r"directions of \[8, 16\] numbers"):
        PackedInterventions.of("x", [FLOOR, Floor(2, direction(hidden=8), 1.0)])
