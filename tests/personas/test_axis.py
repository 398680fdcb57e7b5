"""Persona space is the PCA of role vectors, turned towards the Assistant."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from keel.personas import MapSettings, fit_space
from tests.personas.synthetic import QUICK, SPREAD, Planted, mapped
from tests.reference import persona_vectors as plain


def test_the_space_agrees_with_sklearn():
    planted = Planted(SPREAD)
    found = mapped(planted, MapSettings(min_count=2, components=4))
    vectors = torch.stack([v.vector_LD[2] for v in found.vectors]).double().numpy()
    pca = PCA(4).fit(vectors)
    space = found.space
    assert np.allclose(space.variance_ratio_LK[2], pca.explained_variance_ratio_, atol=1e-5)
    assert np.allclose(
        np.abs((space.components_LKD[2].numpy() * pca.components_).sum(1)), 1, atol=1e-4
    )
    expected = plain.loadings(vectors, space.components_LKD[2][0].numpy())
    assert np.allclose(space.loadings_LRK[2, :, 0], expected, atol=1e-5)
    assert np.allclose(space.coordinates_LRK[2].abs(), np.abs(pca.transform(vectors)), atol=1e-4)


def test_pc1_points_towards_the_assistant():
    for seed in range(5):
        found = mapped(Planted(SPREAD, seed=seed))
        assert bool((found.space.default_coordinates_LK[:, 0] > 0).all())


def test_components_are_counted_up_to_a_share():
    vectors = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])[:, None]
    space = fit_space(("a", "b", "c", "d"), vectors, torch.ones(1, 3), 3)
    # Variances 18 and 2 of 20: 90 % in the first.
    assert space.variance_ratio_LK[0, 0] == pytest.approx(0.9)
    assert space.components_for(0.9, 0) == 1
    assert space.components_for(0.95, 0) == 2
    assert (
        fit_space(("a", "b", "c", "d"), vectors, torch.ones(1, 3), 1).components_for(0.95, 0)
        is None
    )


def test_components_and_variance_agree_with_the_plain_reference():
    vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    default = torch.ones(1, 5)
    space = fit_space(tuple("abcdefg"), torch.tensor(vectors)[:, None], default, 5)
    components, shares = plain.principal_components(vectors.astype(float))
    assert np.allclose(space.variance_ratio_LK[0], shares, atol=1e-6)
    assert np.allclose(np.abs(components @ space.components_LKD[0].numpy().T), np.eye(5), atol=1e-5)


def test_a_space_made_by_hand():
    """Roles (±3, 0), (0, ±1) about (10, 0); the default (8, 1) lies at (−2, 1) from their mean.

    PC1 is the first dimension turned towards the default: (−1, 0); PC2 (0, ±1). The default's
    coordinate on PC1 is 2, its length √5.
    """
    vectors = torch.tensor([[13.0, 0], [7, 0], [10, 1], [10, -1]])[:, None]
    space = fit_space(tuple("abcd"), vectors, torch.tensor([[8.0, 1.0]]), 10)
    assert space.mean_LD.tolist() == [[10.0, 0.0]]
    assert torch.allclose(space.components_LKD[0, 0], torch.tensor([-1.0, 0.0]), atol=1e-6)
    assert torch.allclose(space.coordinates_LRK[0, :, 0], torch.tensor([-3.0, 3, 0, 0]), atol=1e-6)
    assert torch.allclose(space.loadings_LRK[0, :, 0], torch.tensor([-1.0, 1, 0, 0]), atol=1e-6)
    assert float(space.default_coordinates_LK[0, 0]) == pytest.approx(2)
    assert float(space.default_loadings_LK[0, 0]) == pytest.approx(2 / 5**0.5)


def test_components_are_orthonormal_even_where_roles_coincide():
    """Four roles in two places span one dimension; three components are asked for."""
    vectors = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4], [2, 2, 2, 2], [2, 2, 2, 2]])[:, None]
    for some in (vectors, torch.ones(4, 1, 4)):
        rows = fit_space(tuple("abcd"), some, torch.zeros(1, 4), 3).components_LKD[0]
        assert torch.allclose(rows @ rows.T, torch.eye(3), atol=1e-5)


def test_other_components_point_where_their_largest_coordinate_is_positive():
    space = mapped(Planted(SPREAD), QUICK).space
    coordinates = space.coordinates_LRK[..., 1:]
    largest = coordinates.gather(1, coordinates.abs().argmax(1, keepdim=True))
    assert bool((largest > 0).all())


def test_there_are_fewer_components_than_roles():
    four = {role: SPREAD[role] for role in list(SPREAD)[:4]}
    assert mapped(Planted(four), QUICK).space.components_LKD.shape == (3, 3, 16)
