"""How often a floor moved a token, counted and summed."""

import pytest
import torch

from keel.geometry import unit
from keel.steering import Ablation, Addition, Firing, steered
from keel.testing import tiny_model
from keel.types import Floor

IDS = torch.arange(10, 19)[None]
V, W = (unit(torch.randn(32, generator=torch.Generator().manual_seed(n))) for n in (0, 1))


def fired(*interventions) -> dict[int, int]:
    model = tiny_model("llama")
    with steered(model, interventions) as steering, torch.no_grad():
        model(input_ids=IDS)
    return steering.firing().fired


def test_the_rate_weighs_layers_by_their_tokens():
    # 1 of 2 and 0 of 8: 1 of 10 slots, not the mean of a half and nothing.
    firing = Firing({3: 1, 4: 0}, {3: 2, 4: 8})
    assert firing.rate == pytest.approx(0.1)
    assert firing.by_layer == {3: 0.5, 4: 0.0}


def test_a_layer_that_saw_no_token_has_no_rate():
    assert Firing({3: 0}, {3: 0}).by_layer == {}
    assert Firing({3: 0}, {3: 0}).rate == 0


def test_firings_add_up_layer_by_layer():
    both = Firing({1: 1, 2: 2}, {1: 4, 2: 4}) + Firing({2: 1, 3: 3}, {2: 6, 3: 6})
    assert both == Firing({1: 1, 2: 3, 3: 3}, {1: 4, 2: 10, 3: 6})


def test_a_token_that_two_floors_of_a_layer_move_is_counted_once():
    # One floor is above every token, the other below: 9 tokens move, whichever comes last.
    high, low = Floor(1, V, 1e3), Floor(1, W, -1e3)
    assert fired(high, low) == fired(low, high) == fired(high, Floor(1, W, 1e3)) == {1: 9}


def test_what_moves_every_token_is_not_counted():
    assert fired(Addition(1, V, 2.0), Ablation(2, V)) == {1: 0, 2: 0}
