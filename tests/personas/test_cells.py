"""Folds hold whole questions, an even number of them, as many as memory allows."""

import pytest
import torch

from keel.errors import UsageError
from keel.personas import MapSettings
from keel.personas.axis import axis_of
from keel.personas.cells import RolloutIndex, gather_cells
from tests.personas.synthetic import SPREAD, Planted, handmade

CELL = 13 * 3 * 16 * 4
"""Bytes of one fold: default and twelve roles, 3 layers × 16, float32."""


@pytest.mark.parametrize(
    ("questions", "folds_bytes", "folds"),
    [
        (12, 2**30, 12),
        (12, 9 * CELL, 8),  # nine would fit; eight is even
        (12, 1, 4),  # never fewer than four, where there are as many questions
        (3, 2**30, 2),
        (50, 2**30, 20),
    ],
)
def test_folds_are_as_many_as_fit_and_even(questions, folds_bytes, folds):
    planted = Planted(SPREAD, questions=questions)
    places = RolloutIndex.of(planted.prompts, lambda _: True)
    cells = gather_cells(places, planted.batches(), folds_bytes)
    assert cells.counts_NF.shape == (13, folds)
    assert int(cells.counts_NF.sum()) == len(planted.prompts)


def test_a_half_is_every_other_question_whatever_the_folds():
    planted = Planted(SPREAD, questions=12)
    places = RolloutIndex.of(planted.prompts, lambda _: True)
    many, few = (gather_cells(places, planted.batches(), size) for size in (2**30, 1))
    even = [planted.means[f"role0/p0/q{q}"] for q in range(0, 12, 2)]
    assert torch.allclose(many.means(0)[1], torch.stack(even).mean(0), atol=1e-5)
    assert torch.allclose(few.means(0), many.means(0), atol=1e-5)


def test_questions_are_ranked_by_index_not_by_where_they_stand():
    prompts, batches = handmade({"default": [(1.0,), (2.0,)], "a": [(0.0,), (5.0,)]})
    backwards = RolloutIndex.of(prompts[::-1], lambda _: True)
    cells = gather_cells(backwards, batches(), 2**20)
    assert cells.means(0).flatten().tolist() == [1.0, 0.0]


def test_a_role_that_is_missing_in_a_half_does_not_weigh_there():
    means = torch.tensor([[4.0], [1.0], [torch.nan], [2.0]])[:, None]
    assert axis_of(means).item() == 2.5


def test_a_misspelt_label_is_refused():
    settings = MapSettings()
    object.__setattr__(settings, "label", "fuly")  # past the checker of types, as users are
    with pytest.raises(UsageError, match="label is 'fuly'"):
        settings.__post_init__()
