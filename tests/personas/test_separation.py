"""Default and role answers are told apart on questions the axis never saw, or not at all."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from keel.personas import map_personas
from keel.personas.cells import RolloutIndex
from keel.personas.quality import held_out_separations
from keel.types import ModelIdentity
from tests.personas.synthetic import QUICK, SPREAD, Planted, handmade, mapped
from tests.reference import persona_vectors as plain


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


def test_intervals_hold_their_value_and_narrow_with_more_data():
    few = mapped(Planted(SPREAD, questions=4, noise=0.8)).quality
    many = mapped(Planted(SPREAD, questions=40, noise=0.8)).quality
    for quality in (*few, *many):
        for interval in (quality.auc, quality.d_prime):
            assert interval.low <= interval.value + 0.05
            assert interval.value - 0.05 <= interval.high
    width = lambda some: sum(q.auc.high - q.auc.low for q in some)  # noqa: E731
    assert width(many) < width(few)


def separations(prompts, batches, axis, resamples=5):
    places = RolloutIndex.of(prompts, lambda _: True)
    axis_LD = torch.tensor([axis], dtype=torch.float32)
    return held_out_separations(batches(), places, (axis_LD, axis_LD), resamples=resamples, seed=0)


def test_ties_count_half():
    """Default at 1, roles at 1, 0 and 2, in both halves: (1/2 + 1 + 0) / 3 = 1/2, and d′ 0.

    Roles at 1, 0 and 1 give (1/2 + 1 + 1/2) / 3 = 2/3.
    """
    even = {"default": [(1,), (1,)], "a": [(1,), (1,)], "b": [(0,), (0,)], "c": [(2,), (2,)]}
    found = separations(*handmade(even), axis=[1.0])[0]
    assert found.auc.value == pytest.approx(1 / 2)
    assert found.d_prime.value == pytest.approx(0)
    above = {**even, "c": [(1,), (1,)]}
    assert separations(*handmade(above), axis=[1.0])[0].auc.value == pytest.approx(2 / 3)


def test_auc_and_d_prime_are_those_of_the_plain_reference():
    draw = np.random.default_rng(0)
    # Rounded to tenths, so that some tie.
    answers = {role: draw.normal(size=(6, 1)).round(1) for role in ("default", "a", "b", "c")}
    found = separations(*handmade(answers), axis=[1.0])[0]
    halves = [
        (answers["default"][n::2, 0], [x for r in "abc" for x in answers[r][n::2, 0]])
        for n in (0, 1)
    ]
    assert found.auc.value == pytest.approx(np.mean([plain.area_under_curve(*h) for h in halves]))
    assert found.d_prime.value == pytest.approx(np.mean([plain.d_prime(*h) for h in halves]))


def test_each_half_is_tried_on_the_axis_of_the_other():
    """Even questions part default from roles along x, odd ones along y: no axis serves both.

    On the axis of the other half default and roles coincide: AUC 1/2, d′ 0.
    """
    answers = {"default": [(1, 0), (0, 1)] * 2} | {role: [(0, 0)] * 4 for role in "abc"}
    prompts, batches = handmade(answers)
    found = map_personas(prompts, batches, identity=ModelIdentity("m", 1, 2), settings=QUICK)
    assert found.quality[0].auc.value == 0.5
    assert found.quality[0].d_prime.value == 0


def test_a_common_offset_does_not_drown_the_effect():
    """A thousand standard deviations on top of everything change d′ by no more than rounding."""
    near = {"default": [(3,), (4,)], "a": [(0,), (1,)], "b": [(1,), (2,)], "c": [(2,), (0,)]}
    far = {role: [(x + 4096,) for (x,) in rows] for role, rows in near.items()}
    one, two = (separations(*handmade(a), axis=[1.0])[0] for a in (near, far))
    assert two.d_prime.value == pytest.approx(one.d_prime.value, rel=1e-6)
    assert two.auc.value == one.auc.value


def test_intervals_cover_the_truth():
    """Roles at N(0, 1), their answers at N(place, 1), the default's at N(1.5, 1).

    A default answer stands above a role answer where N(1.5, 1 + 1 + 1) > 0: Φ(1.5/√3) = 0.807.
    The answers of a role hang together: intervals over answers alone would cover about 70 %. If
    these cover 90 %, fewer than 48 of 60 do with a chance of 1 in 200; the seeds are fixed.
    """
    truth = 0.5 * (1 + math.erf(1.5 / math.sqrt(6)))
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        answers = {f"r{n}": draw.normal() + draw.normal(size=(12, 1)) for n in range(10)}
        answers["default"] = 1.5 + draw.normal(size=(12, 1))
        auc = separations(*handmade(answers), axis=[1.0], resamples=100)[0].auc
        covered += auc.low <= truth <= auc.high
    assert covered >= 48


def test_a_sample_keeps_the_default_however_many_the_roles():
    prompts, _ = handmade({"default": [(0,)] * 6, **{f"r{n}": [(0,)] * 6 for n in range(50)}})
    rows = list(RolloutIndex.of(prompts, lambda _: True).sampled(6, seed=0).row.values())
    assert rows.count(0) == 6
    assert len(rows) == 12
