"""The map finds what was planted, of the rollouts that count, and refuses what it cannot map."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from keel.errors import ModelMismatchError, NotFiniteError, TooFewSamplesError, UsageError
from keel.geometry import cosine
from keel.personas import MapSettings, map_personas
from keel.types import ActivationBatch, Judgement, ModelIdentity
from tests.personas.synthetic import QUICK, SETTINGS, SPREAD, Planted, handmade, mapped
from tests.reference import persona_vectors as plain


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
    settings = replace(QUICK, min_count=5)
    found = map_personas(prompts, planted.batches, identity=planted.identity, settings=settings)
    assert found.dropped == {"role3": 2}
    assert "role3" not in [v.role for v in found.vectors]
    assert any("role3 (2)" in w for w in found.warnings)


def test_only_rollouts_judged_to_play_their_role_count():
    planted = Planted(SPREAD)
    judged = {
        p.id: Judgement(p.id, "none" if p.question_index < 2 else "fully") for p in planted.prompts
    }
    settings = replace(QUICK, label="playing")
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
    with pytest.raises(TooFewSamplesError, match="2 of 2 roles have 2 rollouts"):
        mapped(Planted({"a": 0.0, "b": -1.0}))


def test_one_question_is_refused():
    with pytest.raises(TooFewSamplesError, match="0 default and 0 role answers"):
        mapped(Planted(SPREAD, questions=1), MapSettings(min_count=1))


def test_no_activations_are_refused():
    planted = Planted(SPREAD)
    with pytest.raises(TooFewSamplesError, match="no activations"):
        map_personas(planted.prompts, list, identity=planted.identity, settings=SETTINGS)


def test_batches_are_streamed_twice_and_never_kept():
    """Memory is that of the cells: a batch is free as soon as the next one comes."""
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
    small = replace(QUICK, folds_bytes=1)
    assert torch.allclose(
        mapped(planted, small).axis.vector, mapped(planted).axis.vector, atol=1e-5
    )


@pytest.mark.parametrize("name", ["min_count", "components", "folds_bytes"])
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


def test_a_map_made_by_hand():
    """Two dimensions, two questions.

    Roles: a (0, 0), b (1, 0), c (2, 3); their mean is (1, 1). Default: (4, 4) and (4, 6), mean
    (4, 5). Axis (3, 4), length 5, direction (0.6, 0.8). Default projects to 2.4 + 4 = 6.4, the
    roles' mean to 1.4: a gap of 5. Norms of the default: sqrt(32), sqrt(52).
    """
    prompts, batches = handmade(
        {
            "default": [(4, 4), (4, 6)],
            "a": [(0, 0), (0, 0)],
            "b": [(1, 0), (1, 0)],
            "c": [(2, 2), (2, 4)],
        }
    )
    found = map_personas(prompts, batches, identity=ModelIdentity("m", 1, 2), settings=QUICK)
    assert found.axis.vector.tolist() == [[3.0, 4.0]]
    assert float(found.axis.default_projection[0]) == pytest.approx(6.4)
    assert float(found.axis.role_projection[0]) == pytest.approx(1.4)
    assert float(found.axis.residual_norm[0]) == pytest.approx((32**0.5 + 52**0.5) / 2)
    assert found.default_LD.tolist() == [[4.0, 5.0]]
    assert [(v.role, v.vector_LD.tolist(), v.count) for v in found.vectors] == [
        ("a", [[0.0, 0.0]], 2),
        ("b", [[1.0, 0.0]], 2),
        ("c", [[2.0, 3.0]], 2),
    ]
    quality = found.quality[0]
    assert quality.axis_norm == pytest.approx(5)
    assert quality.default_percentile == 1
    assert quality.top_dims_share == pytest.approx(1)
    # Question 0: axis (4, 4) − (1, 2/3) = (3, 10/3). Question 1: (4, 6) − (1, 4/3) = (3, 14/3).
    # Cosine (9 + 140/9) / sqrt((9 + 100/9)(9 + 196/9)) = 221/9 / sqrt(181/9 · 277/9).
    assert quality.split_half_questions == pytest.approx(221 / (181 * 277) ** 0.5, abs=1e-5)


def test_a_dropped_role_leaves_no_trace():
    planted = Planted(SPREAD)
    never_asked = Planted({role: SPREAD[role] for role in SPREAD if role != "role11"})
    without = map_personas(
        never_asked.prompts, planted.batches, identity=planted.identity, settings=SETTINGS
    )
    few = [p for p in planted.prompts if p.role != "role11" or p.question_index == 0]
    dropped = map_personas(few, planted.batches, identity=planted.identity, settings=SETTINGS)
    assert torch.equal(dropped.axis.vector, without.axis.vector)
    assert dropped.quality == without.quality
    assert dropped.dropped == {"role11": 1}


@pytest.mark.parametrize(
    ("label", "counts"), [("all", 6), ("fully", 2), ("somewhat", 2), ("playing", 4)]
)
def test_each_label_takes_its_own(label, counts):
    """Of eight answers of a role two are fully in role, two somewhat, two not, two unjudged."""
    planted = Planted(SPREAD)
    labels = ("fully", "somewhat", "none", "unjudged")
    judged = {p.id: Judgement(p.id, labels[p.question_index // 2]) for p in planted.prompts}
    found = mapped(planted, replace(QUICK, label=label), judgements=judged)
    assert {v.count for v in found.vectors} == {counts}
    assert found.default_count == 24
    assert found.axis.provenance["label"] == label


def test_separate_labels_make_a_vector_each_and_an_axis_of_the_fully_played_roles():
    """As in the paper: persona space holds both, the axis those fully in role."""
    planted = Planted(SPREAD)
    labels = ("fully", "somewhat", "none", "unjudged")
    judged = {p.id: Judgement(p.id, labels[p.question_index // 2]) for p in planted.prompts}
    apart, fully, somewhat = (
        mapped(planted, replace(QUICK, label=label), judgements=judged)
        for label in ("separate", "fully", "somewhat")
    )
    assert torch.equal(apart.axis.vector, fully.axis.vector)
    assert apart.quality == fully.quality
    by_name = {vector.role: vector for vector in apart.vectors}
    assert set(by_name) == set(apart.space.roles) == {*SPREAD, *(f"{r} (somewhat)" for r in SPREAD)}
    for alone in (fully, somewhat):
        for vector in alone.vectors:
            kept = by_name[vector.role + " (somewhat)" * (alone is somewhat)]
            assert kept.label == vector.label
            assert torch.equal(kept.vector_LD, vector.vector_LD)


def test_a_label_is_refused_where_nothing_was_judged():
    with pytest.raises(UsageError, match="'fully', and nothing was judged"):
        mapped(Planted(SPREAD), replace(QUICK, label="fully"))


def test_a_rollout_without_a_judgement_does_not_count_as_playing():
    planted = Planted(SPREAD)
    judged = {p.id: Judgement(p.id, "fully") for p in planted.prompts if p.question_index > 4}
    found = mapped(planted, replace(QUICK, label="playing"), judgements=judged)
    assert {v.count for v in found.vectors} == {3}


def test_activations_of_another_model_are_refused():
    planted = Planted(SPREAD)
    other = ModelIdentity("other", 3, 17)
    with pytest.raises(ModelMismatchError, match="3 layers × 16, and other has 3 × 17"):
        map_personas(planted.prompts, planted.batches, identity=other, settings=QUICK)


def test_a_stream_that_cannot_start_anew_is_refused():
    planted = Planted(SPREAD)
    stream = planted.batches()
    with pytest.raises(UsageError, match="starts the stream anew"):
        map_personas(planted.prompts, lambda: stream, identity=planted.identity, settings=QUICK)


def test_norms_that_are_not_numbers_are_refused_by_name():
    prompts, batches = handmade({role: [(1, 2), (3, 4)] for role in ("default", "a", "b", "c")})
    whole = batches()[0]
    norms = whole.norms_BL.clone()
    norms[5, 0] = torch.nan  # the sixth rollout: role b, question 1
    with pytest.raises(NotFiniteError, match="rollout b/q1"):
        map_personas(
            prompts,
            lambda: [replace(whole, norms_BL=norms)],
            identity=ModelIdentity("m", 1, 2),
            settings=QUICK,
        )


def test_the_default_must_answer_in_both_halves_of_the_questions():
    planted = Planted(SPREAD)
    prompts = [p for p in planted.prompts if not p.is_default or p.question_index % 2 == 0]
    with pytest.raises(TooFewSamplesError, match="0 default and 48 role answers"):
        map_personas(prompts, planted.batches, identity=planted.identity, settings=QUICK)


def test_a_role_heard_in_one_half_only_spoils_nothing():
    planted = Planted(SPREAD)
    prompts = [p for p in planted.prompts if p.role != "role3" or p.question_index % 2 == 0]
    found = map_personas(prompts, planted.batches, identity=planted.identity, settings=QUICK)
    for quality in found.quality:
        assert 0.5 < quality.auc.value <= 1
        assert 0 < quality.split_half_questions <= 1
        assert 0 < quality.split_half_roles <= 1


def test_the_axis_tells_what_it_is_made_of():
    found = mapped(Planted(SPREAD), QUICK)
    told = found.axis.provenance
    assert (told["roles"], told["role_rollouts"], told["default_rollouts"]) == (12, 96, 24)
    assert told["settings"]["min_count"] == 2
