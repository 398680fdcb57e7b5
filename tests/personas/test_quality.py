"""The layer recommended is the one with the best held-out effect, and halves agree if they may."""

import pytest
import torch

from keel.personas.quality import recommended_layer
from keel.types import Interval, LayerQuality
from tests.personas.synthetic import QUICK, SPREAD, Planted, mapped


def test_the_recommended_layer_has_the_best_effect_not_the_largest_variance():
    # Layer 2 has ten times the variance of layer 1, but no more axis.
    planted = Planted(SPREAD, layers=5, strengths=(0.2, 0.2, 1.5, 0.2, 0.2), noise=0.4)
    for id, mean in planted.means.items():
        planted.means[id] = mean * torch.tensor([1.0, 1.0, 1.0, 30.0, 100.0])[:, None]
    assert mapped(planted).axis.layer == 2


@pytest.mark.parametrize(
    ("d_primes", "layer"),
    [
        ((9.0, 1.0, 2.0, 1.0, 9.0), 2),  # depths 0, 1/4, 1/2, 3/4, 1: both ends are out
        ((0.0, 2.0, 2.0, 2.0, 0.0), 1),  # ties go to the earlier
        ((1.0,), 0),  # nothing is inside
        ((1.0, 2.0), 1),
    ],
)
def test_neither_the_first_nor_the_last_layers_are_recommended(d_primes, layer):
    none = Interval(0.0, 0.0, 0.0)
    quality = [
        LayerQuality(
            layer=n,
            axis_norm=1.0,
            default_percentile=1.0,
            d_prime=Interval(value, value, value),
            auc=none,
            split_half_questions=1.0,
            split_half_roles=1.0,
            cos_pc1=none,
            cos_pc1_null=0.0,
            top_dims_share=0.0,
        )
        for n, value in enumerate(d_primes)
    ]
    assert recommended_layer(quality) == layer


def test_split_halves_agree_where_the_axis_is_strong():
    strong = mapped(Planted(SPREAD, noise=0.1)).quality
    weak = mapped(Planted(dict.fromkeys(SPREAD, 1.0), noise=1.0)).quality
    assert all(q.split_half_questions > 0.9 for q in strong)
    assert all(q.split_half_roles > 0.9 for q in strong)
    assert all(q.split_half_questions < 0.9 for q in weak)


def test_roles_in_two_halves_agree_whatever_the_topics():
    """Each half of the roles is set against the default on the same questions: what the questions
    do to all alike (here three times the axis) must not come between the halves."""
    planted = Planted(SPREAD, noise=0.1)
    for one in planted.prompts:
        push = torch.zeros(16)
        push[one.question_index] = 3.0
        planted.means[one.id] = planted.means[one.id] + push
    # Noise of an axis per dimension: 0.1·sqrt(1/12 + 1/24) = 0.04, 0.14 in all, against 1.3.
    assert all(q.split_half_roles > 0.95 for q in mapped(planted, QUICK).quality)


def test_few_dimensions_that_carry_the_axis_are_seen():
    planted = Planted(SPREAD, hidden=40, noise=0.0)
    even = mapped(planted, QUICK).quality
    for one in planted.prompts:
        planted.means[one.id][:, 7] += 50.0 * one.is_default
    assert all(q.top_dims_share > 0.99 for q in mapped(planted, QUICK).quality)
    # Of 40 normal numbers the ten largest hold about two thirds of the square.
    assert all(0.5 < q.top_dims_share < 0.85 for q in even)
