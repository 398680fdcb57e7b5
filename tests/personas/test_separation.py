"""Default and role answers are told apart on questions the axis never saw, or not at all."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from keel.personas import map_personas
from keel.personas.cells import RolloutIndex, gather_cells
from keel.personas.separation import held_out_separations
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
    """A default answer is projected on the axis of the other half without its own prompt; what is
    pooled is in units of the role answers on the same axis."""
    planted = Planted(SPREAD, noise=0.8)
    found = mapped(planted)
    aucs, d_primes = [], []
    for half in (0, 1):
        inside = [p for p in planted.prompts if p.question_index % 2 == 1 - half]
        outside = [p for p in planted.prompts if p.question_index % 2 == half]
        of = lambda role, some: [planted.means[p.id][1].numpy() for p in some if p.role == role]  # noqa: E731
        vectors = [plain.role_vector(of(role, inside)) for role in SPREAD]
        won, scaled = [], []
        for system in range(planted.defaults):
            others = [p for p in inside if p.system_index != system]
            axis = plain.assistant_axis(of("default", others), vectors)
            own = [p for p in outside if p.is_default and p.system_index == system]
            d = np.array([planted.means[p.id][1].numpy() @ axis for p in own])
            r = np.array([x @ axis for role in SPREAD for x in of(role, outside)])
            won.append(plain.area_under_curve(d, r))
            scaled.append((d - r.mean()) / r.std())
        aucs.append(np.mean(won))
        pooled = np.concatenate(scaled)
        d_primes.append(pooled.mean() / np.sqrt((pooled.var() + 1) / 2))
    assert found.quality[1].auc.value == pytest.approx(np.mean(aucs), abs=1e-6)
    assert found.quality[1].d_prime.value == pytest.approx(np.mean(d_primes), abs=1e-3)


def test_a_default_prompt_of_its_own_kind_is_named():
    """The third of five prompts makes the model answer as the roles do, in another direction."""
    planted = Planted(SPREAD, defaults=5, questions=12, hidden=32)
    aside = torch.nn.functional.normalize(torch.ones(32), dim=0)
    for prompt in planted.prompts:
        if prompt.is_default and prompt.system_index == 2:
            planted.means[prompt.id] += 2 * aside - 1.2 * planted.direction
    found = mapped(planted, QUICK)
    prompts = found.quality[found.axis.layer].default_prompts
    assert len(prompts) == 5
    assert all(prompts[2].cosine < other.cosine - 0.3 for other in prompts[:2] + prompts[3:])
    assert prompts[2].auc < 0.8 < min(other.auc for other in prompts[:2] + prompts[3:])
    assert any("default's system prompt 2" in text for text in found.warnings)
    usual = mapped(Planted(SPREAD, defaults=5, questions=12, hidden=32), QUICK)
    assert not any("system prompt" in text for text in usual.warnings)


def test_perfect_separation_is_no_certainty():
    """Of 12 questions without a miss Wilson's interval begins at 12 / (12 + 3.84) = 0.76."""
    far = {role: [(n / 9,) for n in range(12)] for role in ("a", "b", "c")}
    found = separations(*handmade({**far, "default": [(9 + n / 9,) for n in range(12)]}))[0]
    assert found.auc.value == 1
    assert (found.auc.low, found.auc.high) == (pytest.approx(0.76, abs=0.01), 1)


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


def separations(prompts, batches):
    index = RolloutIndex.of(prompts, lambda _: True)
    cells = gather_cells(index, batches(), 10**9)
    return held_out_separations(batches(), index, cells, seed=0)


def test_ties_count_half():
    """Default at 1, roles at 1, 0 and 1, in both halves: (1/2 + 1 + 1/2) / 3 = 2/3."""
    even = {"default": [(1,)] * 2, "a": [(1,)] * 2, "b": [(0,)] * 2, "c": [(1,)] * 2}
    assert separations(*handmade(even))[0].auc.value == pytest.approx(2 / 3)


def test_auc_and_d_prime_are_those_of_the_plain_reference():
    draw = np.random.default_rng(0)
    # Rounded to tenths, so that some tie.
    answers = {role: draw.normal(size=(6, 1)).round(1) for role in ("a", "b", "c")}
    answers["default"] = 1 + draw.normal(size=(6, 1)).round(1)  # the axis points upwards
    found = separations(*handmade(answers))[0]
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
    one, two = (separations(*handmade(a))[0] for a in (near, far))
    assert two.d_prime.value == pytest.approx(one.d_prime.value, rel=1e-4)
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
        auc = separations(*handmade(answers))[0].auc
        covered += auc.low <= truth <= auc.high
    assert covered >= 48


def test_a_sample_keeps_the_default_however_many_the_roles():
    prompts, _ = handmade({"default": [(0,)] * 6, **{f"r{n}": [(0,)] * 6 for n in range(50)}})
    rows = list(RolloutIndex.of(prompts, lambda _: True).sampled(6, seed=0).row.values())
    assert rows.count(0) == 6
    assert len(rows) == 12
