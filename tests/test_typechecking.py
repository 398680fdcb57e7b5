"""Tests see a wrong type or shape in what a function takes and gives, nested ones too."""

from collections.abc import Callable

import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

from tests.typechecking import checked


def doubling(kind: type) -> Callable[..., object]:
    """A function made anew in each call, whose promise hangs on the call."""

    @jaxtyped(typechecker=checked)
    def double(x: Float[Tensor, "rows dims"], given: kind) -> Float[Tensor, "rows dims"]:
        return x[: int(given)] * 2

    return double


def test_each_time_that_a_function_is_made_it_is_checked():
    rows = torch.ones(3, 2)
    for _ in range(2):
        assert doubling(int)(rows, 3).shape == (3, 2)
        with pytest.raises(TypeCheckError, match="return value"):
            doubling(int)(rows, 2)
        with pytest.raises(TypeCheckError, match="parameters"):
            doubling(int)(rows[0], 2)
        with pytest.raises(TypeCheckError, match="parameters"):
            doubling(str)(rows, 3)
    assert doubling(str)(rows, "3").shape == (3, 2)


def test_classes_of_one_name_that_are_made_in_a_call_are_told_apart():
    def local() -> type:
        class Given(int):
            pass

        return Given

    one, other = local(), local()
    assert doubling(one)(torch.ones(3, 2), one(3)).shape == (3, 2)
    with pytest.raises(TypeCheckError, match="parameters"):
        doubling(other)(torch.ones(3, 2), one(3))
