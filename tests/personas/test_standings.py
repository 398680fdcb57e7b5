"""A role's standing comes with an interval over questions, and with the ranks that it may have."""

from __future__ import annotations

import numpy as np
import torch

from keel.personas.cells import Cells
from keel.personas.standings import role_standings
from keel.report.inputs import _ranks
from keel.types import AssistantAxis, Interval, ModelIdentity
from tests.personas.synthetic import QUICK, SPREAD, Planted, mapped

STANDINGS = np.linspace(-0.4, 0.4, 9)


def planted(seed: int, folds: int = 10) -> tuple[Cells, AssistantAxis]:
    """Roles at their places along the first of two dimensions, the default at 1; each question
    moves all answers, and every answer is noisy besides."""
    chance = np.random.default_rng(seed)
    cells = np.zeros((10, folds, 1, 2))
    cells[:, :, 0, 0] = np.concatenate([[1.0], STANDINGS])[:, None] + chance.normal(size=folds)
    cells += 0.5 * chance.normal(size=cells.shape)
    names = tuple(f"role{n}" for n in range(9))
    counts = torch.ones(10, folds, dtype=torch.int64)
    axis = AssistantAxis(
        vector=torch.tensor([[1.0, 0.0]]),
        layer=0,
        default_projection=torch.tensor([1.0]),
        role_projection=torch.tensor([0.0]),
        residual_norm=torch.tensor([9.0]),
        identity=ModelIdentity("none", 1, 2, "", "", "", "float32"),
        provenance={},
    )
    sums = torch.tensor(cells)
    return Cells(names, sums, counts, torch.ones(1), sums[:1], counts[:1]), axis


def test_the_interval_holds_where_a_role_stands_to_the_others():
    """270 standings, in relation to the mean role of their draw: 95 %, not under 91 (3 standard
    errors). The effect of questions, four times the noise's variance, is common to all."""
    held = 0
    for seed in range(30):
        intervals = list(role_standings(*planted(seed)).values())
        common = np.mean([interval.value for interval in intervals])
        for interval, truth in zip(intervals, STANDINGS, strict=True):
            held += interval.low - common <= truth <= interval.high - common
    assert held >= 246


def test_a_map_has_the_standing_of_every_role():
    found = mapped(Planted(SPREAD), QUICK)
    assert list(found.standings) == list(SPREAD)
    for vector in found.vectors:
        at = found.standings[vector.role]
        raw = float(vector.vector_LD[found.axis.layer] @ found.axis.direction[found.axis.layer])
        assert abs(at.value - found.axis.in_gaps(raw, found.axis.layer)) < 1e-4
        assert at.low <= at.value <= at.high


def test_roles_that_cannot_be_told_apart_share_their_ranks():
    """Three close together, known to ±0.2, and one far above."""
    near = [Interval(x, x - 0.2, x + 0.2) for x in (0.0, 0.05, 0.1)]
    far = Interval(2.0, 1.8, 2.2)
    assert [_ranks([*near, far], row) for row in range(4)] == [(2, 4), (2, 4), (2, 4), (1, 1)]
