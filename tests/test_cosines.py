"""Cosines of noisy directions are those that were planted, and their intervals hold them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from keel.cosines import FoldedVector, noise_free_cosine
from tests.reference.statistics import disattenuated_cosine

HIDDEN = 40


def noisy(true_D, noise, rng, folds=12, **roles):
    folds_FD = true_D + noise * rng.normal(size=(folds, HIDDEN))
    return FoldedVector(torch.from_numpy(folds_FD), torch.ones(folds).double(), **roles)


def at(cos):
    """Two directions at this cosine."""
    first_D, second_D = np.eye(HIDDEN)[0], np.eye(HIDDEN)[1]
    return first_D, cos * first_D + (1 - cos**2) ** 0.5 * second_D


def test_without_noise_it_is_the_cosine_itself():
    first_D, second_D = at(0.6)
    rng = np.random.default_rng(0)
    interval = noise_free_cosine(noisy(first_D, 0, rng), noisy(2 * second_D, 0, rng))
    assert (interval.low, interval.value, interval.high) == pytest.approx((0.6, 0.6, 0.6))


def test_the_value_is_that_of_the_reference():
    rng = np.random.default_rng(0)
    first, second = (noisy(true_D, 0.3, rng) for true_D in at(0.6))
    expected = disattenuated_cosine(first.folds_FD.tolist(), second.folds_FD.tolist())
    assert noise_free_cosine(first, second).value == pytest.approx(expected)


def test_noise_does_not_pull_it_to_nought():
    """Twelve folds of noise 0.4 in 40 dimensions: the plain cosine is 0.9 / (1 + 40·0.16/12), 0.59.
    The mean of 100 has a standard error of about 0.02."""
    rng = np.random.default_rng(0)
    values = [
        noise_free_cosine(*(noisy(true_D, 0.4, rng) for true_D in at(0.9))).value
        for _ in range(100)
    ]
    assert np.mean(values) == pytest.approx(0.9, abs=0.08)


@pytest.mark.parametrize("cos", [0.0, 0.5, 0.95])
def test_its_interval_holds_what_was_planted(cos):
    """95 % of 200, by seeds that are fixed: another seed gives fewer than 180 in 1 of 500."""
    rng = np.random.default_rng(0)
    intervals = [noise_free_cosine(*(noisy(true_D, 0.3, rng) for true_D in at(cos)))
                 for _ in range(200)]  # fmt: skip
    assert sum(each.low <= cos <= each.high for each in intervals) >= 180


def test_few_roles_make_it_uncertain_and_no_longer():
    """A mean of eight roles lies off that of all by 1/8 of their variance: counted as noise."""
    first_D, second_D = at(0.5)
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        roles_RD = np.zeros((8, HIDDEN))
        roles_RD[:, :4] = rng.normal(size=(8, 4))
        own = noisy(first_D - roles_RD.mean(0), 0.05, rng,
                    roles_RD=torch.from_numpy(roles_RD), role_spread=4.0)  # fmt: skip
        interval = noise_free_cosine(own, noisy(second_D, 0.05, rng))
        held += interval.low <= 0.5 <= interval.high
    assert held >= 85  # of a true 95 %, fewer in 1 of 10,000


def test_a_direction_lost_in_noise_has_no_cosine():
    rng = np.random.default_rng(0)
    nothing = noisy(np.zeros(HIDDEN), 1.0, rng, folds=4)
    interval = noise_free_cosine(nothing, noisy(at(0)[0], 0.1, rng, folds=4))
    assert (interval.low, interval.high) == (-1, 1)


def test_folds_of_different_number_are_regrouped():
    """12 folds and 8 share 4 groups: question 13 is in group 1 of either."""
    rng = np.random.default_rng(0)
    interval = noise_free_cosine(noisy(at(0.6)[0], 0, rng), noisy(at(0.6)[1], 0, rng, folds=8))
    assert interval.value == pytest.approx(0.6)
