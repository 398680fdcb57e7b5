"""Batches of like length, within the budget."""

import pytest

from keel.engines import Budget
from keel.engines.transformers.batching import by_length, padded_width
from keel.errors import UsageError


def batches(lengths, tokens=1000, rows=4, new=0):
    return by_length(lengths, new_tokens=new, budget=Budget(tokens, rows, 0))


def test_longest_first_and_each_place_once():
    assert batches([1, 9, 5, 7, 3]) == [(1, 3, 2), (4, 0)]


def test_rows_times_the_longest_stays_within_the_tokens():
    # 20 tokens fill 24 columns, 24 + 5 a row: two rows fit in 65. 10 fill 16, 16 + 5: three.
    assert batches([20, 20, 20, 10, 10, 10, 10], tokens=65, rows=9, new=5) == [
        (0, 1),
        (2, 3),
        (4, 5, 6),
    ]


def test_batches_come_in_few_widths():
    # Two batches of nearly the same length are of the same shape.
    assert [padded_width(n) for n in (1, 8, 9, 16, 17)] == [8, 8, 16, 16, 24]


def test_batches_are_of_about_equal_size():
    # 9 rows at most 4 at once: 3 + 3 + 3, not 4 + 4 + 1.
    assert [len(b) for b in batches([5] * 9)] == [3, 3, 3]


def test_a_prompt_that_cannot_fit_is_refused_with_its_size():
    with pytest.raises(UsageError, match="2000 tokens with 10 new ones.*1000 fit"):
        batches([1, 2000], new=10)
