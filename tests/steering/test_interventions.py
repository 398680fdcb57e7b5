"""Each kind of intervention as the four numbers of one shift, against its formula."""

import math
from dataclasses import replace

import pytest
import torch

from keel.errors import NotFiniteError, UsageError
from keel.geometry import lower_to_ceiling, raise_to_floor, shift, unit
from keel.steering import Ablation, Addition, Ceiling, in_order
from keel.types import Floor, Intervention

V = unit(torch.tensor([3.0, -1.0, 2.0]))
EACH = [Floor(1, V, 2.0), Ceiling(1, V, -0.5), Addition(1, V, 1.5), Ablation(1, V, 0.25)]
FORMULAS = {
    Floor: lambda p: (2.0 - p).clamp_min(0),
    Ceiling: lambda p: (-0.5 - p).clamp_max(0),
    Addition: lambda p: torch.full_like(p, 1.5),
    Ablation: lambda p: 0.25 - p,
}
PROJECTIONS = torch.cat([8 * torch.randn(1000), torch.tensor([0.0, -0.5, 0.25, 2.0, 1e30, -1e30])])


@pytest.mark.parametrize("each", EACH, ids=lambda each: type(each).__name__)
def test_every_kind_shifts_by_its_formula_to_the_bit(each):
    assert torch.equal(shift(PROJECTIONS, *each.numbers), FORMULAS[type(each)](PROJECTIONS))


@pytest.mark.parametrize("each", EACH, ids=lambda each: type(each).__name__)
def test_numbers_per_token_shift_as_numbers_for_all_do(each):
    table_NK = torch.tensor([each.numbers] * len(PROJECTIONS))
    by_row = shift(PROJECTIONS, *table_NK.unbind(-1))
    assert torch.equal(by_row, shift(PROJECTIONS, *each.numbers))


def test_a_floor_of_minus_infinity_shifts_nothing():
    floor = replace(EACH[0], value=-math.inf)
    assert not floor.is_bound
    assert shift(PROJECTIONS, *floor.numbers).abs().max() == 0


def test_bounds_move_some_tokens_only_and_the_others_all():
    assert [each.is_bound for each in EACH] == [True, True, False, False]


def test_they_act_by_layer_then_additions_ablations_ceilings_floors():
    floor, ceiling, addition, ablation = EACH
    early = replace(floor, layer=0)
    assert in_order([*EACH, early]) == [early, addition, ablation, ceiling, floor]


@pytest.mark.parametrize(("kind", "name"), [(type(each), type(each).__name__) for each in EACH])
def test_a_number_that_is_none_is_refused_with_kind_and_layer(kind, name):
    with pytest.raises(NotFiniteError, match=f"{name.lower()} at layer 7 is NaN"):
        kind(7, V, math.nan)


def test_an_endless_addition_is_refused():
    with pytest.raises(NotFiniteError, match="addition at layer 7 is infinite"):
        Addition(7, V, math.inf)


def test_only_kinds_can_be_made_not_the_idea_of_one():
    with pytest.raises(TypeError, match="abstract"):
        Intervention()


def test_geometry_raises_and_lowers_by_the_same_shift():
    hidden = torch.randn(50, 3)
    for move, each in ((raise_to_floor, EACH[0]), (lower_to_ceiling, EACH[1])):
        wanted = hidden + FORMULAS[type(each)](hidden @ V)[:, None] * V
        assert torch.equal(move(hidden, V, each.value), wanted)
    with pytest.raises(UsageError, match="norm"):
        Floor(1, 2 * V, 0.0)
