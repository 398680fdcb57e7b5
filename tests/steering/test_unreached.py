"""A layer that saw no token is named, whoever asks."""

from keel.steering import Firing, unreached


def test_every_layer_that_saw_a_token_is_reached_whether_it_moved_or_not():
    assert unreached(Firing({1: 0, 2: 3}, {1: 5, 2: 5}), [1, 2]) == []


def test_a_layer_without_tokens_and_one_that_nobody_counted_are_not():
    assert unreached(Firing({1: 0, 2: 0}, {1: 5, 2: 0}), [3, 2, 2, 1]) == [2, 3]


def test_where_nothing_was_counted_nothing_was_reached():
    assert unreached(None, [4]) == [4]


def test_what_steers_nothing_misses_nothing():
    assert unreached(None, []) == []
