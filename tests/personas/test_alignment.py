"""Alignment of axis and PC1 stands out from roles' where it was planted, and only there."""

import numpy as np
import pytest
import torch

from keel.personas.alignment import pc1_alignments
from keel.personas.cells import Cells, RolloutIndex, gather_cells
from tests.personas.synthetic import SPREAD, Planted
from tests.reference.alignment import corrected_cosine, rank_p


def cells_of(planted):
    return gather_cells(RolloutIndex.of(planted.prompts, lambda _: True), planted.batches(), 2**20)


def drawn(
    seed: int,
    cosine: float | None,
    *,
    roles: int = 24,
    folds: int = 14,
    noise: float = 4.0,
    hidden: int = 200,
) -> np.ndarray:
    """Cells of roles with a third of their variance along the first dimension, and of a default
    whose axis has this cosine with it, 1.5 of their standard deviations long.

    Without a cosine the default is one more role, as noisy as they.
    """
    chance = np.random.default_rng(seed)
    spread = 1 / np.arange(1, hidden)
    spread = np.sqrt(np.concatenate([[0.35], np.minimum(spread / spread.sum() * 0.65, 0.3)]))
    rows = chance.normal(size=(1 + roles, hidden)) * spread
    noises = np.full((1 + roles, 1, 1), noise / hidden**0.5)
    if cosine is not None:
        rows[0, 1:] *= 1.5 * (1 - cosine**2) ** 0.5 / np.linalg.norm(rows[0, 1:])
        rows[0, 0] = 1.5 * cosine
        noises[0] /= 5**0.5
    return rows[:, None] + noises * chance.normal(size=(1 + roles, folds, hidden))


def alignment_of(cells: np.ndarray):
    sums = torch.tensor(cells)[:, :, None]
    names = tuple(f"role{n}" for n in range(1, len(cells)))
    counts = torch.ones(cells.shape[:2], dtype=torch.int64)
    cells = Cells(names, sums, counts, torch.ones(1), sums[:1], counts[:1])
    return pc1_alignments(cells)[0]


@pytest.mark.parametrize("cosine", [0.3, 0.6, 0.8, 0.95])
def test_the_interval_holds_the_cosine_of_the_population(cosine: float):
    """At 95 %: fewer than 25 of 30 by a chance of 1 in 300. By resampled roles it was none to a
    fifth, since noise and few roles make the cosine smaller, in every resample as well."""
    held = 0
    for seed in range(30):
        interval = alignment_of(drawn(seed, cosine)).cos_pc1
        held += interval.low <= cosine <= interval.high
    assert held >= 25


@pytest.mark.parametrize("cosine", [0.6, 0.95])
def test_the_corrected_cosine_is_not_pulled_towards_zero(cosine: float):
    """As computed it is 0.50 and 0.78 on average."""
    values = [alignment_of(drawn(seed, cosine)).cos_pc1.value for seed in range(30)]
    assert np.mean(values) == pytest.approx(cosine, abs=0.08)


def test_an_axis_along_pc1_stands_out_from_roles_taken_as_the_default():
    """A true cosine of 0.95 does in nearly all of 30 draws; 0.6, which many a role reaches, in
    hardly any: so it should be."""
    power = {
        cosine: sum(alignment_of(drawn(seed, cosine)).p <= 0.05 for seed in range(30))
        for cosine in (0.6, 0.95)
    }
    assert power[0.95] >= 25
    assert power[0.6] <= 8


def test_a_default_that_is_one_more_role_stands_out_by_chance_only():
    """Its rank among 25 is any: 1 in 25 reaches p = 0.04. More than 7 of 60 by a chance of 1 in
    500."""
    assert sum(alignment_of(drawn(seed, None)).p <= 0.05 for seed in range(60)) <= 7


def test_the_default_lies_above_the_null_just_where_p_says_so():
    for seed in range(20):
        found = alignment_of(drawn(seed, 0.8))
        if found.p <= 0.04:
            assert found.cos_pc1.value >= found.null
        if found.p >= 0.16:
            assert found.cos_pc1.value <= found.null


@pytest.mark.parametrize("seed", range(3))
def test_value_and_p_are_those_of_the_plain_formulas(seed: int):
    cells = drawn(seed, 0.7)
    found = alignment_of(cells)
    assert found.cos_pc1.value == pytest.approx(corrected_cosine(cells), abs=1e-6)
    assert found.p == pytest.approx(rank_p(cells.mean(1)))


def test_with_few_roles_nothing_stands_out():
    """Of 12 roles the default's rank is 1 in 13 at best."""
    assert alignment_of(drawn(0, 0.95, roles=12)).p >= 1 / 13


def test_where_roles_are_alike_nothing_is_known_of_the_cosine():
    cells = np.random.default_rng(0).normal(size=(5, 4, 40))
    interval = alignment_of(cells).cos_pc1
    assert interval.low <= interval.value <= interval.high
    assert interval.high - interval.low > 0.3


def test_roles_without_an_answer_in_a_fold_are_aligned_as_well():
    planted = Planted(SPREAD, layers=1, strengths=(1,))
    cells = cells_of(planted)
    cells.sums_NFLD[2, 1] = 0
    cells.counts_NF[2, 1] = 0
    (found,) = pc1_alignments(cells)
    assert 0 <= found.cos_pc1.low <= found.cos_pc1.value <= found.cos_pc1.high <= 1
