"""What is served as held was held at every one of its layers."""

from __future__ import annotations

import pytest
import torch

from keel.errors import NotAppliedError
from keel.serve.held import check_applied
from keel.steering import Firing
from keel.types import Floor, Floors

FLOORS = Floors(tuple(Floor(n, torch.tensor([1.0, 0.0]), 0.0) for n in (1, 2)), "band")


@pytest.mark.parametrize(
    "firing", [Firing({1: 0}, {1: 5}), Firing({1: 0, 2: 0}, {1: 5, 2: 0}), None]
)
def test_floors_that_reached_some_of_their_layers_did_not_hold_the_model(firing):
    with pytest.raises(NotAppliedError, match=r"'band' did not reach layers \[(1, )?2\]"):
        check_applied(FLOORS, firing)


def test_floors_that_reached_all_layers_and_moved_nothing_held_the_model():
    check_applied(FLOORS, Firing({1: 0, 2: 0}, {1: 5, 2: 5}))
    check_applied(None, None)
