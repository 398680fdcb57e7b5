"""Controls point where they are said to, and nowhere near the axis by design."""

import pytest
import torch

from keel.errors import TooFewSamplesError
from keel.evaluate.controls import (
    draw_source,
    in_span_directions,
    random_directions,
    shuffled_directions,
)
from keel.types import AssistantAxis, ModelIdentity, PersonaVector

LAYERS, HIDDEN, ROLES = 4, 24, 6


def an_axis(vector_LD: torch.Tensor) -> AssistantAxis:
    flat = torch.ones(len(vector_LD))
    identity = ModelIdentity("made-up", *vector_LD.shape)
    return AssistantAxis(vector_LD, 1, flat, torch.zeros_like(flat), flat, identity)


@pytest.fixture
def axis() -> AssistantAxis:
    return an_axis(3 * torch.randn(LAYERS, HIDDEN))


@pytest.fixture
def vectors() -> list[PersonaVector]:
    # A common mean far from zero, as role vectors have: centring must matter.
    common = 50 * torch.randn(LAYERS, HIDDEN)
    made = [common + torch.randn(LAYERS, HIDDEN) for _ in range(ROLES)]
    return [PersonaVector(f"role{n}", "all", v, 10) for n, v in enumerate(made)]


def chance(kind: str = "random", draw: int = 1, seed: int = 0) -> torch.Generator:
    return draw_source(seed, kind, draw)


def test_all_controls_are_unit_vectors(axis, vectors):
    for found in (
        random_directions(axis, [0, 2], chance()),
        shuffled_directions(axis, [0, 2], chance()),
        in_span_directions(axis, [0, 2], chance(), vectors=vectors),
    ):
        assert found.shape == (2, HIDDEN)
        assert torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-6)


def test_an_in_span_control_is_orthogonal_to_the_axis_at_every_layer(axis, vectors):
    found = in_span_directions(axis, range(LAYERS), chance(), vectors=vectors)
    assert (found * axis.direction).sum(1).abs().max() < 1e-6


def test_an_in_span_control_lies_in_the_span_of_the_centred_role_vectors(axis, vectors):
    found = in_span_directions(axis, range(LAYERS), chance(), vectors=vectors)
    for layer in range(LAYERS):
        rows = torch.stack([v.vector_LD[layer] for v in vectors]).double()
        centred = rows - rows.mean(0)
        weights = torch.linalg.lstsq(centred.T, found[layer].double()[:, None]).solution
        # The span has 5 of 24 dimensions: what is not in it would leave most of a unit over.
        assert (centred.T @ weights - found[layer].double()[:, None]).norm() < 1e-5


def test_an_in_span_control_is_the_same_mixture_of_roles_at_every_layer(vectors):
    """With an axis outside the roles' span nothing is taken away, and the mixtures are bare."""
    outside = torch.zeros(LAYERS, HIDDEN)
    outside[:, -1] = 1
    flat = [PersonaVector(v.role, "all", v.vector_LD * (outside == 0), 10) for v in vectors]
    found = in_span_directions(an_axis(outside), range(LAYERS), chance(), vectors=flat).double()
    weights = []
    for layer in range(LAYERS):
        rows = torch.stack([v.vector_LD[layer] for v in flat]).double()
        centred = (rows - rows.mean(0))[:, :-1]
        solved = torch.linalg.pinv(centred.T) @ found[layer, :-1]
        weights.append(solved / solved.norm())
    # A mixture is told up to a common part, which the pseudo-inverse leaves out.
    assert torch.allclose(torch.stack(weights), weights[0].expand(LAYERS, -1), atol=1e-5)


def test_a_shuffled_control_is_a_permutation_of_the_axis_the_same_at_every_layer(axis):
    found = shuffled_directions(axis, range(LAYERS), chance())
    assert torch.equal(found.sort(dim=1).values, axis.direction.sort(dim=1).values)
    assert not torch.allclose(found, axis.direction)
    places = [[int((row == x).nonzero()[0, 0]) for x in found[n]] for n, row in
              enumerate(axis.direction)]  # fmt: skip
    assert all(one == places[0] for one in places)


def test_a_random_control_is_the_same_at_every_layer_and_has_nothing_of_the_axis(axis):
    found = random_directions(axis, range(LAYERS), chance())
    assert torch.equal(found, found[:1].expand_as(found))
    wide = an_axis(torch.randn(2, 4096))
    # |cosine| of independent directions in 4096 dimensions: above 6/64 once in 10^9.
    assert abs(float(random_directions(wide, [0], chance())[0] @ wide.direction[0])) < 6 / 64


def test_the_same_seed_draws_the_same_and_another_draw_another(axis):
    def drawn(**more):
        return random_directions(axis, [0], chance(**more))

    assert torch.equal(drawn(), drawn())
    for other in ({"draw": 2}, {"seed": 1}, {"kind": "in-span"}):
        assert not torch.allclose(drawn(), drawn(**other))


def test_directions_do_not_depend_on_which_layers_are_asked_for(axis, vectors):
    both = in_span_directions(axis, [1, 3], chance(), vectors=vectors)
    assert torch.equal(both[1], in_span_directions(axis, [3], chance(), vectors=vectors)[0])


def test_two_roles_are_too_few(axis, vectors):
    with pytest.raises(TooFewSamplesError, match="2 role vectors, expected 3 or more"):
        in_span_directions(axis, [0], chance(), vectors=vectors[:2])


def test_roles_that_differ_along_the_axis_alone_leave_no_direction(axis):
    made = [PersonaVector(f"r{n}", "all", n * axis.vector, 10) for n in range(4)]
    with pytest.raises(TooFewSamplesError, match="along the axis alone"):
        in_span_directions(axis, [0], chance(), vectors=made)
