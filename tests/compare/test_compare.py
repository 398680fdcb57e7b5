"""A comparison finds what is alike and what was moved, and refuses what cannot be compared."""

from dataclasses import replace

import pytest
import torch

from keel.compare import CompareSettings, RunMaps, compare_maps
from keel.compare.similarity import compare_spaces
from keel.errors import TooFewSamplesError, UsageError
from keel.personas import fit_space
from keel.types import (
    AssistantAxis,
    AxisFolds,
    ModelIdentity,
    PersonaMap,
    PersonaVector,
    TraitAxis,
    TraitMap,
    TraitVector,
)

ROLES = tuple(f"role{n}" for n in range(8))
TRAITS = ("calm", "loud", "kind", "odd", "dry")
SETTINGS = CompareSettings(components=3)
LAYERS, HIDDEN, LAYER = 2, 12, 1


def roles_of(seed=0, hidden=HIDDEN):
    """Role vectors square to each other once centred, of falling lengths: 8, 7, ... 1."""
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(hidden, hidden, generator=draw)).Q
    vectors = torch.arange(8.0, 0, -1)[:, None] * basis[: len(ROLES)]
    return vectors[:, None].expand(-1, LAYERS, -1).clone()


def mapped(name, vectors, default, *, names=ROLES, traits=None, layers=LAYERS):
    """A run whose roles and default lie where they are put."""
    identity = ModelIdentity(name, layers, vectors.shape[-1])
    mean = vectors.mean(0)
    axis = default - mean
    direction = torch.nn.functional.normalize(axis, dim=-1)
    found = PersonaMap(
        vectors=tuple(PersonaVector(n, "all", v, 9) for n, v in zip(names, vectors, strict=True)),
        default_LD=default,
        default_count=9,
        dropped={},
        axis=AssistantAxis(
            axis,
            LAYER,
            (default * direction).sum(-1),
            (mean * direction).sum(-1),
            torch.ones(layers),
            identity,
        ),
        space=fit_space(names, vectors, default, 5),
        quality=(),
    )
    return RunMaps(name, identity, found, traits)


def traits_of(vectors, layer=LAYER):
    flat = torch.zeros(LAYERS, len(TRAITS))
    return TraitMap(
        vectors=tuple(TraitVector(n, v, 9, 0, 0) for n, v in zip(TRAITS, vectors, strict=True)),
        dropped={},
        space=fit_space(TRAITS, vectors, vectors.mean(0) + 1, 4),
        default_position_LN=flat,
        split_half_LN=flat + 1,
        layer=layer,
        axis=TraitAxis(vectors[:, :, 0].T, flat, flat),
    )


DEFAULT = torch.randn(LAYERS, HIDDEN, generator=torch.Generator().manual_seed(9))
TRAIT_VECTORS = torch.randn(5, LAYERS, HIDDEN, generator=torch.Generator().manual_seed(8))


def test_a_run_agrees_with_itself_in_everything():
    one = mapped("a", roles_of(), DEFAULT, traits=traits_of(TRAIT_VECTORS))
    found = compare_maps(one, replace(one, name="b"), SETTINGS)
    for value in (*found.roles.components, *found.traits.components, found.standings):
        assert value.value == pytest.approx(1, abs=1e-5)
        assert value.low < 1 == pytest.approx(value.high, abs=1e-5)  # of other roles, not of these
    for value in (*found.axes, *found.role_vectors.by_layer, *found.trait_vectors.by_layer):
        assert value.value == pytest.approx(1, abs=1e-5)
    assert found.roles.partners == (0, 1, 2)
    assert found.shift.length == 0
    assert all(shift.share == 0 for shift in (*found.shift.roles, *found.shift.traits))


def test_another_width_changes_no_loading():
    """Turned into a space of 20 dimensions, every angle stays; vectors can no longer be laid on
    one another, and nothing pretends that they could."""
    draw = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(20, HIDDEN, generator=draw)).Q.T
    one = mapped("a", roles_of(), DEFAULT)
    other = mapped("b", roles_of() @ turn, DEFAULT @ turn)
    found = compare_maps(one, other, SETTINGS)
    assert [c.value for c in found.roles.components] == pytest.approx([1, 1, 1], abs=1e-4)
    assert found.standings.value == pytest.approx(1, abs=1e-4)
    assert found.axes is found.role_vectors is found.shift is None
    assert "2 × 12 and b 2 × 20" in found.warnings[0]


def test_a_turned_model_of_one_width_agrees_in_loadings_and_not_in_vectors():
    turn = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=torch.Generator().manual_seed(2)))
    one = mapped("a", roles_of(), DEFAULT)
    found = compare_maps(one, mapped("b", roles_of() @ turn.Q, DEFAULT @ turn.Q), SETTINGS)
    assert found.roles.components[0].value == pytest.approx(1, abs=1e-4)
    assert abs(found.role_vectors.by_layer[LAYER].value) < 0.5


def test_a_component_that_changed_its_sign_is_the_same_component():
    one = mapped("a", roles_of(), DEFAULT)
    space = one.roles.space
    sign = torch.tensor([1.0, -1, 1, 1, 1])
    flipped = replace(space, loadings_LRK=space.loadings_LRK * sign)
    other = replace(one, name="b", roles=replace(one.roles, space=flipped))
    found = compare_maps(one, other, SETTINGS)
    assert found.roles.components[1].value == pytest.approx(1, abs=1e-5)
    assert float(found.roles.correlations_KK[1, 1]) == pytest.approx(-1, abs=1e-5)


def test_components_that_changed_places_find_their_partners():
    one = mapped("a", roles_of(), DEFAULT)
    space = one.roles.space
    swapped = replace(space, loadings_LRK=space.loadings_LRK[:, :, [0, 2, 1, 3, 4]])
    other = replace(one, name="b", roles=replace(one.roles, space=swapped))
    assert compare_maps(one, other, SETTINGS).roles.partners == (0, 2, 1)


def test_unrelated_roles_reach_the_null_in_one_of_twenty():
    """300 pairs of spaces of 20 unrelated roles, of three components each: 900 correlations with
    the same number, 900 with the most like of three. A false alarm is beyond four errors (2.9 %).
    Of two numbers over 20 names r reaches 0.444 (tables of Pearson's r, 18 degrees of freedom)."""
    draw = torch.Generator().manual_seed(6)
    names = tuple(f"role{n}" for n in range(20))
    same = most = 0
    for _ in range(300):
        vectors = torch.randn(2, 20, 1, 30, generator=draw)
        spaces = [fit_space(names, each, each.mean(0), 3) for each in vectors]
        pair = compare_spaces(*spaces, names, (0, 0), most=3)
        amounts_KK = pair.correlations_KK.abs()
        same += int((amounts_KK.diagonal() > pair.null).sum())
        most += int((amounts_KK.amax(1) > pair.partner_null).sum())
    assert pair.null == pytest.approx(0.444, abs=5e-4)
    assert pair.partner_null > pair.null
    assert same / 900 == pytest.approx(0.05, abs=0.029)
    assert most / 900 == pytest.approx(0.05, abs=0.029)


def test_what_all_answers_share_makes_no_two_models_alike():
    """Roles that have nothing to do with each other, far off in one common direction: raw vectors
    would be parallel. Of 8 means of 8 random cosines in 12 dimensions none is near 0.5."""
    noise = [
        torch.randn(8, LAYERS, HIDDEN, generator=torch.Generator().manual_seed(s)) for s in (4, 5)
    ]
    pair = [mapped(name, x + 100, DEFAULT) for name, x in zip("ab", noise, strict=True)]
    assert abs(compare_maps(*pair, SETTINGS).role_vectors.by_layer[LAYER].value) < 0.5


def test_the_planted_shift_of_the_default_is_found_and_ranked():
    vectors = roles_of()
    towards = vectors[3] - vectors.mean(0)
    one = mapped("a", vectors, DEFAULT, traits=traits_of(TRAIT_VECTORS))
    found = compare_maps(one, mapped("b", vectors, DEFAULT + 0.3 * towards), SETTINGS).shift
    share = {shift.name: shift.share for shift in found.roles}
    assert share["role3"] == pytest.approx(0.3, abs=1e-4)
    assert {s.name: s.cosine for s in found.roles}["role3"] == pytest.approx(1, abs=1e-4)
    shares = [shift.share for shift in found.roles]
    assert shares == sorted(shares, reverse=True)
    assert found.length == pytest.approx(0.3 * float(towards[LAYER].norm()), rel=1e-4)


def test_a_shift_along_a_trait_is_in_shares_of_the_trait():
    one = mapped("a", roles_of(), DEFAULT, traits=traits_of(TRAIT_VECTORS))
    found = compare_maps(one, mapped("b", roles_of(), DEFAULT - 0.5 * TRAIT_VECTORS[2]), SETTINGS)
    kind = next(shift for shift in found.shift.traits if shift.name == "kind")
    assert (kind.share, kind.cosine) == pytest.approx((-0.5, -1), abs=1e-4)


def test_a_shift_along_the_axis_is_in_gaps():
    one = mapped("a", roles_of(), DEFAULT)
    to = DEFAULT - 0.25 * one.roles.axis.vector
    found = compare_maps(one, mapped("b", roles_of(), to), SETTINGS)
    assert found.shift.gaps == pytest.approx(-0.25, abs=1e-4)


def test_axes_are_compared_over_the_roles_in_common():
    """A role of the second run alone, far off, moves its own axis and not the comparison."""
    far = torch.cat([roles_of(), 100 * torch.ones(1, LAYERS, HIDDEN)])
    one = mapped("a", roles_of(), DEFAULT)
    found = compare_maps(one, mapped("b", far, DEFAULT, names=(*ROLES, "far")), SETTINGS)
    assert found.axes[LAYER].value == pytest.approx(1, abs=1e-5)
    assert found.role_vectors.by_layer[LAYER].value == pytest.approx(1, abs=1e-5)
    assert any("Of 9 roles, 8 are in both" in warning for warning in found.warnings)


def test_intervals_hold_their_value_and_know_chance():
    """Roles that have nothing to do with each other: the interval of PC1's correlation is wide.

    Of 8 unrelated roles |r| stays under 0.9 but once in 400.
    """
    noise = [
        torch.randn(8, LAYERS, HIDDEN, generator=torch.Generator().manual_seed(s)) for s in (4, 5)
    ]
    found = compare_maps(mapped("a", noise[0], DEFAULT), mapped("b", noise[1], DEFAULT), SETTINGS)
    first = found.roles.components[0]
    assert first.low <= first.value <= first.high
    assert abs(first.value) < 0.9
    assert first.high - first.low > 0.4


def test_the_same_seed_gives_the_same_null():
    noise = torch.randn(8, LAYERS, HIDDEN, generator=torch.Generator().manual_seed(4))
    pair = mapped("a", noise, DEFAULT), mapped("b", roles_of(), DEFAULT)
    assert compare_maps(*pair, SETTINGS).axes_null == compare_maps(*pair, SETTINGS).axes_null


def test_the_null_says_what_the_default_alone_makes_of_two_axes():
    """Roles that lie near to each other, the default far off: any axis points from them to it."""
    near, default = 0.1 * roles_of(), 50 * DEFAULT
    found = compare_maps(mapped("a", near, default), mapped("b", near, default), SETTINGS)
    assert all(null > 0.99 for null in found.axes_null)


def test_a_run_without_folds_of_its_axis_is_named():
    """An older run says nothing of other questions and answers."""
    found = compare_maps(mapped("a", roles_of(), DEFAULT), mapped("b", roles_of(), DEFAULT))
    assert any("b was mapped by an older Keel" in warning for warning in found.warnings)


def test_the_cosine_of_axes_is_about_other_answers_too():
    """Two runs of one population, apart by noise alone: its cosine of 1 lies in the interval,
    which is no point, and the plain cosine of what was measured is less."""
    runs = []
    for seed in (0, 1):
        draw = torch.Generator().manual_seed(seed)
        folds_FLD = (
            DEFAULT - roles_of().mean(0) + 2.0 * torch.randn(16, LAYERS, HIDDEN, generator=draw)
        )
        run = mapped(str(seed), roles_of(), roles_of().mean(0) + folds_FLD.mean(0))
        kept = AxisFolds(folds_FLD, torch.ones(16), torch.full((LAYERS,), 25.5))
        runs.append(replace(run, roles=replace(run.roles, axis_folds=kept)))
    for interval in compare_maps(*runs, SETTINGS).axes:
        assert interval.low < 0.999
        assert interval.high == pytest.approx(1)
    plain = torch.nn.functional.cosine_similarity(*(run.roles.axis.vector for run in runs), dim=-1)
    assert bool((plain < 0.99).all())


def test_runs_with_too_few_roles_in_common_are_refused_by_name():
    one = mapped("a", roles_of(), DEFAULT)
    other = mapped("b", roles_of(), DEFAULT, names=(*ROLES[:3], *(f"x{n}" for n in range(5))))
    with pytest.raises(TooFewSamplesError, match="a and b have 3 in common .role0, role1, role2."):
        compare_maps(one, other, SETTINGS)


def test_a_run_of_roles_and_one_of_traits_share_nothing():
    one = mapped("a", roles_of(), DEFAULT)
    other = RunMaps("b", ModelIdentity("b", 2, HIDDEN), None, traits_of(TRAIT_VECTORS))
    with pytest.raises(UsageError, match="a holds roles and b traits; .* --what"):
        compare_maps(one, other, SETTINGS)


def test_runs_of_traits_alone_are_compared_too():
    one = RunMaps("a", ModelIdentity("a", 2, HIDDEN), None, traits_of(TRAIT_VECTORS))
    found = compare_maps(one, replace(one, name="b"), SETTINGS)
    assert found.roles is found.shift is None
    assert found.trait_vectors.cosines == pytest.approx([1] * 5)
