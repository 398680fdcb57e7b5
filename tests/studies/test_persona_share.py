"""The share of chats' variance that persona space explains, where it is planted."""

from __future__ import annotations

import numpy as np
import pytest

from keel.studies import space_shares

AXES = np.eye(40)
PEOPLE = [f"p{n // 10}" for n in range(400)]


def turns(scale_D: np.ndarray) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((400, 40)) * scale_D + 7


def test_the_variance_along_the_components_is_recovered():
    """Variances 27, 12 and 38 of 1 each: 27/77 along the first, 39/77 along two."""
    scale_D = np.sqrt(np.array([27.0, 12.0] + [1.0] * 38))
    shares = space_shares("none", turns(scale_D), PEOPLE, AXES, (1, 2))
    assert [row.share.value for row in shares] == pytest.approx([27 / 77, 39 / 77], abs=0.04)
    for row in shares:
        assert row.share.low < row.share.value < row.share.high
        assert row.null95 < row.share.low
        assert row.most == pytest.approx(row.share.value, abs=0.01)


def test_components_that_chats_do_not_vary_along_explain_no_more_than_random_ones():
    """All directions alike: 2 of 40 explain a twentieth; the interval over people misses its null's
    95th percentile by chance in fewer than 1 of 1,000 draws."""
    (row,) = space_shares("none", turns(np.ones(40)), PEOPLE, AXES, (2,))
    assert row.share.value == pytest.approx(0.05, abs=0.015)
    assert row.share.low < row.null95 < row.most


def test_turns_that_do_not_vary_have_no_share():
    assert space_shares("none", np.ones((6, 40)), ["a", "b"] * 3, AXES, (1,)) == ()
