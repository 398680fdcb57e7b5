"""Layers that were to be steered and saw no token are an error that names them."""

import pytest

from keel.errors import NotAppliedError
from keel.steering import Firing, check_reached


def test_every_layer_that_saw_a_token_is_reached_whether_it_moved_or_not():
    check_reached(Firing({1: 0, 2: 3}, {1: 5, 2: 5}), [1, 2])


def test_a_layer_without_tokens_and_an_uncounted_layer_are_not_reached():
    with pytest.raises(NotAppliedError, match=r"layers \[2, 3\] saw no token"):
        check_reached(Firing({1: 0, 2: 0}, {1: 5, 2: 0}), [3, 2, 2, 1])


def test_where_nothing_was_counted_nothing_was_reached():
    with pytest.raises(NotAppliedError, match=r"layers \[4\] saw no token"):
        check_reached(None, [4])


def test_what_steers_nothing_misses_nothing():
    check_reached(None, [])
