"""Alignment of axis and PC1 stands out from chance where it was planted, and only there."""

import numpy as np
import pytest
import torch

from keel.geometry import cosine
from keel.personas.alignment import _resampled, _shuffled, pc1_alignments
from keel.personas.cells import RolloutIndex, gather_cells
from tests.personas.synthetic import SPREAD, Planted, mapped
from tests.reference import persona_vectors as plain


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


def cells_of(planted):
    return gather_cells(RolloutIndex.of(planted.prompts, lambda _: True), planted.batches(), 2**20)


def test_a_true_axis_stands_out():
    """Here the axis is PC1 but for noise, and 0.55 to 0.65 is what shuffled labels reach."""
    places = {f"role{n}": float(x) for n, x in enumerate(np.linspace(-2, 0.4, 16))}
    for seed in range(3):
        planted = Planted(places, own=0.05, hidden=64, layers=1, strengths=(1,), seed=seed)
        found = pc1_alignments(cells_of(planted), resamples=2, shuffles=50, seed=seed)[0]
        assert found.cos_pc1.value > 0.85
        assert found.null < 0.75


def test_labels_that_mean_nothing_stand_out_by_chance_only():
    """Every answer is drawn alike, so each shuffle is as likely as the truth: 3 in 51 pass the
    95th percentile of 50 shuffles; more than 8 of 40 by a chance of 1 in 1,000."""
    alarms = 0
    for seed in range(40):
        alike = Planted(dict.fromkeys(SPREAD, 1.0), layers=1, strengths=(1,), seed=seed, defaults=1)
        found = pc1_alignments(cells_of(alike), resamples=2, shuffles=50, seed=seed)[0]
        alarms += found.cos_pc1.value > found.null
    assert alarms <= 8


@pytest.mark.parametrize("mixing", [_resampled, _shuffled])
def test_mixing_inner_products_is_mixing_the_vectors_themselves(mixing):
    planted = Planted(SPREAD, layers=1, strengths=(1,))
    cells = cells_of(planted)
    mixes = mixing(cells.counts_NF, 3, torch.Generator().manual_seed(0))
    means_MD = (cells.sums_NFLD[:, :, 0].double() / cells.counts_NF[..., None]).flatten(0, 1)
    cosines = mixes.cosines(means_MD @ means_MD.T)
    for number, cos in enumerate(cosines.tolist()):
        weighed = means_MD[mixes.cell_SNF[number]] * mixes.share_SNF[number][..., None]
        default, *roles = weighed.sum(1).numpy()
        pc1 = plain.principal_components(np.stack(roles))[0][0]
        axis = default - np.mean(roles, axis=0)
        assert cos == pytest.approx(abs(axis @ pc1) / np.linalg.norm(axis), abs=1e-6)


def test_a_shuffle_hands_every_cell_on_once_and_within_its_fold():
    counts = torch.full((5, 4), 3)
    mixes = _shuffled(counts, 6, torch.Generator().manual_seed(0))
    # Cell = row · 4 folds + fold.
    assert bool((mixes.cell_SNF % 4 == torch.arange(4)).all())
    assert bool((mixes.cell_SNF.flatten(1).sort().values == torch.arange(20)).all())
    moved = (mixes.cell_SNF[:, 0] != torch.arange(4)).float().mean()
    assert moved > 0.3  # the default's, too; 24 cells stay with a chance of 1/5 each
    assert bool((mixes.share_SNF == 0.25).all())


def test_resampling_keeps_the_default_and_begins_with_the_data_as_they_are():
    counts = torch.tensor([[4, 4], [1, 3], [2, 2]])
    mixes = _resampled(counts, 20, torch.Generator().manual_seed(0))
    assert mixes.cell_SNF[0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert mixes.share_SNF[0].tolist() == [[0.5, 0.5], [0.25, 0.75], [0.5, 0.5]]
    assert bool((mixes.cell_SNF[:, 0] == torch.tensor([0, 1])).all())
    assert bool((mixes.cell_SNF[:, 1:] >= 2).all())
    assert torch.allclose(mixes.share_SNF.sum(-1), torch.ones(21, 3, dtype=torch.float64))
