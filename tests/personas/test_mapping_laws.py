"""The map finds what was planted, says how sure it is, and says when there is nothing."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from keel.errors import NotFiniteError, TooFewSamplesError, UsageError
from keel.geometry import cosine
from keel.personas import MapSettings, fit_space, map_personas
from keel.personas.mapping import recommended_layer
from keel.types import ActivationBatch, Interval, Judgement
from tests.personas.synthetic import Planted
from tests.reference import persona_vectors as plain

SETTINGS = MapSettings(min_count=2, bootstrap=60, null_shuffles=20)
SPREAD = {f"role{n}": -1 + n / 8 for n in range(12)}  # from -1 to 0.375: all below the default


def mapped(planted, settings=SETTINGS, **more):
    return map_personas(
        planted.prompts, planted.batches, identity=planted.identity, settings=settings, **more
    )


def test_the_planted_direction_is_recovered():
    planted = Planted(SPREAD, noise=0.2)
    found = mapped(planted)
    for layer in range(3):
        # Twelve roles of 8 rollouts: noise in the axis about 0.2·sqrt(16 / 24) = 0.16 of 1.3.
        assert float(cosine(found.axis.vector[layer], planted.direction)) > 0.97


def test_vectors_and_axis_agree_with_the_plain_reference():
    planted = Planted(SPREAD)
    found = mapped(planted)
    of = lambda role: [planted.means[p.id].numpy() for p in planted.prompts if p.role == role]  # noqa: E731
    vectors = {role: plain.role_vector(of(role)) for role in SPREAD}
    for vector in found.vectors:
        assert np.allclose(vector.vector_LD, vectors[vector.role], atol=1e-5)
        assert vector.count == 8
    axis = plain.assistant_axis(of("default"), list(vectors.values()))
    assert np.allclose(found.axis.vector, axis, atol=1e-5)
    assert found.default_count == 24


def test_roles_weigh_the_same_however_many_rollouts_they_have():
    planted = Planted(SPREAD)
    thinned = [p for p in planted.prompts if p.role != "role0" or p.question_index < 4]
    found = map_personas(thinned, planted.batches, identity=planted.identity, settings=SETTINGS)
    vectors = torch.stack([v.vector_LD for v in found.vectors])
    assert torch.allclose(found.axis.vector, found.default_LD - vectors.mean(0), atol=1e-5)
    assert next(v.count for v in found.vectors if v.role == "role0") == 4


def test_gap_units_run_from_the_role_mean_to_the_default():
    found = mapped(Planted(SPREAD))
    axis = found.axis
    default = float(found.default_LD[1] @ axis.direction[1])
    roles = torch.stack([v.vector_LD[1] for v in found.vectors]).mean(0)
    assert axis.in_gaps(default, 1) == pytest.approx(1.0, abs=1e-4)
    assert axis.in_gaps(float(roles @ axis.direction[1]), 1) == pytest.approx(0.0, abs=1e-4)


def test_the_space_agrees_with_sklearn():
    planted = Planted(SPREAD)
    found = mapped(planted, MapSettings(min_count=2, components=4, bootstrap=2, null_shuffles=1))
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


def test_a_strong_axis_separates_and_no_axis_does_not():
    strong = mapped(Planted(SPREAD, noise=0.1)).quality
    none = mapped(Planted(dict.fromkeys(SPREAD, 1.0), noise=0.3)).quality
    for quality in strong:
        assert quality.auc.value > 0.95
        assert quality.default_percentile == 1.0
    # With nothing planted a held-out AUC scatters about 1/2: 24 × 96 pairs in clusters of
    # questions; standard error under 0.08, 4 of them.
    assert all(abs(q.auc.value - 0.5) < 0.32 for q in none)
    assert all(q.auc.low < 0.5 < q.auc.high + 0.15 for q in none)


def test_the_auc_is_held_out():
    """In forty dimensions with nothing planted, an axis tried on its own questions would
    separate them all the same."""
    planted = Planted(dict.fromkeys(SPREAD, 1.0), hidden=200, noise=1.0, questions=6)
    found = mapped(planted)
    axis = found.axis.vector[0]
    own = [float(planted.means[p.id][0] @ axis) for p in planted.prompts]
    is_default = [p.is_default for p in planted.prompts]
    assert roc_auc_score(is_default, own) > 0.8
    # Held out: standard error about 0.1 with 3 questions a half; 3.5 of them.
    assert abs(found.quality[0].auc.value - 0.5) < 0.35


def test_auc_and_d_prime_agree_with_their_definitions():
    planted = Planted(SPREAD, noise=0.8)
    found = mapped(planted)
    aucs, d_primes = [], []
    for half in (0, 1):
        inside = [p for p in planted.prompts if p.question_index % 2 == 1 - half]
        outside = [p for p in planted.prompts if p.question_index % 2 == half]
        of = lambda role, some: [planted.means[p.id][1].numpy() for p in some if p.role == role]  # noqa: E731
        axis = plain.assistant_axis(
            of("default", inside), [plain.role_vector(of(r, inside)) for r in SPREAD]
        )
        values = np.array([planted.means[p.id][1].numpy() @ axis for p in outside])
        is_default = np.array([p.is_default for p in outside])
        aucs.append(roc_auc_score(is_default, values))
        d, r = values[is_default], values[~is_default]
        d_primes.append((d.mean() - r.mean()) / np.sqrt((d.var() + r.var()) / 2))
    assert found.quality[1].auc.value == pytest.approx(np.mean(aucs), abs=1e-6)
    assert found.quality[1].d_prime.value == pytest.approx(np.mean(d_primes), abs=1e-4)


def test_the_recommended_layer_has_the_best_effect_not_the_largest_variance():
    # Layer 2 has ten times the variance of layer 1, but no more axis.
    planted = Planted(SPREAD, layers=5, strengths=(0.2, 0.2, 1.5, 0.2, 0.2), noise=0.4)
    for id, mean in planted.means.items():
        planted.means[id] = mean * torch.tensor([1.0, 1.0, 1.0, 30.0, 100.0])[:, None]
    assert mapped(planted).axis.layer == 2


def test_neither_the_first_nor_the_last_layers_are_recommended():
    def interval(value):
        return Interval(value, value, value)

    # Depths 0, .25, .5, .75, 1: the first and the last are out, ties go to the earlier.
    assert recommended_layer([interval(v) for v in (9.0, 1.0, 2.0, 2.0, 9.0)]) == 2
    assert recommended_layer([interval(1.0)]) == 0


def test_alignment_with_pc1_beats_its_null_only_where_roles_lie_along_the_axis():
    along = mapped(Planted(SPREAD, noise=0.1)).quality
    assert all(q.cos_pc1.value > 0.9 and q.cos_pc1.value > q.cos_pc1_null for q in along)
    # All roles at one place: PC1 is noise. |cos| in 16 dimensions is about 0.25 ± 0.2.
    apart = mapped(Planted(dict.fromkeys(SPREAD, 0.0), noise=0.3)).quality
    assert sum(q.cos_pc1.value > q.cos_pc1_null for q in apart) <= 2


def test_alignment_agrees_with_the_space():
    found = mapped(Planted(SPREAD))
    for layer, quality in enumerate(found.quality):
        pc1 = found.space.components_LKD[layer, 0]
        expected = abs(float(cosine(found.axis.vector[layer], pc1)))
        assert quality.cos_pc1.value == pytest.approx(expected, abs=1e-4)


def test_intervals_hold_their_value_and_narrow_with_more_data():
    few = mapped(Planted(SPREAD, questions=4, noise=0.8)).quality
    many = mapped(Planted(SPREAD, questions=40, noise=0.8)).quality
    for quality in (*few, *many):
        for interval in (quality.auc, quality.d_prime):
            assert interval.low <= interval.value + 0.05
            assert interval.value - 0.05 <= interval.high
    width = lambda some: sum(q.auc.high - q.auc.low for q in some)  # noqa: E731
    assert width(many) < width(few)


def test_split_halves_agree_where_the_axis_is_strong():
    strong = mapped(Planted(SPREAD, noise=0.1)).quality
    weak = mapped(Planted(dict.fromkeys(SPREAD, 1.0), noise=1.0)).quality
    assert all(q.split_half_questions > 0.9 for q in strong)
    assert all(q.split_half_roles > 0.9 for q in strong)
    assert all(q.split_half_questions < 0.9 for q in weak)


def test_the_same_rollouts_give_the_same_bits():
    planted = Planted(SPREAD)
    one, two = mapped(planted), mapped(planted)
    assert torch.equal(one.axis.vector, two.axis.vector)
    assert one.quality == two.quality


def test_the_cut_into_batches_changes_no_bit_and_the_order_hardly_any():
    planted = Planted(SPREAD)
    whole = mapped(planted).axis.vector
    cut = map_personas(
        planted.prompts, lambda: planted.batches(1), identity=planted.identity, settings=SETTINGS
    )
    assert torch.equal(cut.axis.vector, whole)
    order = torch.randperm(len(planted.prompts)).tolist()
    turned = map_personas(
        planted.prompts,
        lambda: planted.batches(5, order),
        identity=planted.identity,
        settings=SETTINGS,
    )
    assert torch.allclose(turned.axis.vector, whole, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_means_are_summed_in_single(dtype):
    whole = mapped(Planted(SPREAD)).axis.vector
    half = mapped(Planted(SPREAD, dtype=dtype)).axis.vector
    assert half.dtype == torch.float32
    # bfloat16 rounds numbers of about 10 to 0.04; means of 8 and more keep the axis' direction.
    assert bool((cosine(whole, half) > 0.999).all())


def test_roles_with_too_few_rollouts_are_dropped_and_listed():
    planted = Planted(SPREAD)
    prompts = [p for p in planted.prompts if p.role != "role3" or p.question_index < 2]
    settings = MapSettings(min_count=5, bootstrap=5, null_shuffles=2)
    found = map_personas(prompts, planted.batches, identity=planted.identity, settings=settings)
    assert found.dropped == {"role3": 2}
    assert "role3" not in [v.role for v in found.vectors]
    assert any("role3 (2)" in w for w in found.warnings)


def test_only_rollouts_judged_to_play_their_role_count():
    planted = Planted(SPREAD)
    judged = {
        p.id: Judgement(p.id, "none" if p.question_index < 2 else "fully") for p in planted.prompts
    }
    settings = MapSettings(min_count=2, label="playing", bootstrap=5, null_shuffles=2)
    found = mapped(planted, settings, judgements=judged)
    assert {v.count for v in found.vectors} == {6}
    assert found.default_count == 24  # the default is never filtered


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_activations_that_are_not_numbers_are_refused_by_name(value):
    planted = Planted(SPREAD)
    planted.means["role2/p0/q3"][1, 4] = value
    with pytest.raises(NotFiniteError, match="rollout role2/p0/q3"):
        mapped(planted)


def test_a_run_without_default_is_refused():
    planted = Planted(SPREAD)
    prompts = [p for p in planted.prompts if not p.is_default]
    with pytest.raises(TooFewSamplesError, match="no default rollout"):
        map_personas(prompts, planted.batches, identity=planted.identity, settings=SETTINGS)


def test_fewer_than_three_roles_are_refused():
    with pytest.raises(TooFewSamplesError, match="2 roles have 2 rollouts or more"):
        mapped(Planted({"a": 0.0, "b": -1.0}))


def test_one_question_is_refused():
    with pytest.raises(TooFewSamplesError, match="one question"):
        mapped(Planted(SPREAD, questions=1), MapSettings(min_count=1))


def test_no_activations_are_refused():
    planted = Planted(SPREAD)
    with pytest.raises(TooFewSamplesError, match="no activations"):
        map_personas(planted.prompts, list, identity=planted.identity, settings=SETTINGS)


def test_few_data_are_said_to_be_few():
    found = mapped(Planted(SPREAD, questions=4, noise=0.8))
    words = " ".join(found.warnings)
    assert "Only 12 roles" in words
    assert "rest on 4 answers" in words


def test_batches_are_streamed_twice_and_never_kept():
    """Memory is that of the cells: a batch is free as soon as the next one comes."""
    import weakref

    planted, alive, passes = Planted(SPREAD), [], []

    def batches():
        passes.append(1)
        for batch in planted.batches(3):
            alive.append(weakref.ref(batch.means_BLD))
            assert sum(ref() is not None for ref in alive) <= 2
            yield batch
            del batch

    map_personas(planted.prompts, batches, identity=planted.identity, settings=SETTINGS)
    assert len(passes) == 2


def test_fewer_folds_change_no_vector():
    planted = Planted(SPREAD)
    small = MapSettings(min_count=2, bootstrap=5, null_shuffles=2, folds_bytes=1)
    assert torch.allclose(
        mapped(planted, small).axis.vector, mapped(planted).axis.vector, atol=1e-5
    )


@pytest.mark.parametrize("name", ["min_count", "components", "bootstrap", "null_shuffles"])
def test_settings_that_make_no_sense_are_refused(name):
    with pytest.raises(UsageError, match=name):
        MapSettings(**{name: 0})


def test_the_residual_norm_is_the_defaults():
    planted = Planted(SPREAD)
    norms = [planted.means[p.id].norm(dim=-1) for p in planted.prompts if p.is_default]
    assert torch.allclose(mapped(planted).axis.residual_norm, torch.stack(norms).mean(0), atol=1e-4)


def test_a_batch_of_strangers_counts_for_nothing():
    planted = Planted(SPREAD)
    stranger = ActivationBatch(("who/p0/q0",), torch.full((1, 3, 16), 99.0), torch.ones(1, 3))

    def batches():
        yield stranger
        yield from planted.batches()

    found = map_personas(planted.prompts, batches, identity=planted.identity, settings=SETTINGS)
    assert torch.equal(found.axis.vector, mapped(planted).axis.vector)
