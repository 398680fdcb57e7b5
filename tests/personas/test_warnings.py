"""Few or poor data are said to be few or poor, and good ones pass in silence."""

from dataclasses import replace

import pytest

from keel.personas.cells import RolloutIndex, gather_cells
from keel.personas.mapping import map_warnings
from keel.types import DefaultPromptQuality, Interval, LayerQuality
from tests.personas.synthetic import SPREAD, Planted, mapped


def test_few_data_are_said_to_be_few():
    found = mapped(Planted(SPREAD, questions=4, noise=0.8))
    words = " ".join(found.warnings)
    assert "Only 12 roles" in words
    assert "the poorest on 4" in words


GOOD = LayerQuality(
    layer=3,
    axis_norm=1.0,
    default_percentile=1.0,
    d_prime=Interval(3.0, 2.5, 3.5),
    auc=Interval(0.95, 0.9, 0.99),
    split_half_questions=0.9,
    split_half_roles=0.9,
    cos_pc1=Interval(0.8, 0.7, 0.9),
    cos_pc1_null=0.5,
    cos_pc1_p=0.04,
    top_dims_share=0.1,
)


@pytest.fixture(scope="module")
def plenty():
    planted = Planted({f"r{n}": 0.0 for n in range(20)}, questions=10, layers=1, strengths=(1,))
    return gather_cells(RolloutIndex.of(planted.prompts, lambda _: True), planted.batches(), 2**20)


def test_a_good_map_of_enough_data_is_not_warned_of(plenty):
    assert not list(map_warnings(plenty, GOOD, {}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"auc": Interval(0.9, 0.8, 0.96)}, "between 0.80 and 0.96"),
        ({"auc": Interval(0.6, 0.55, 0.65)}, "hardly separates"),
        ({"split_half_questions": 0.79}, "halves of the questions agree only to a cosine of 0.79"),
        ({"split_half_roles": 0.79}, "halves of the roles agree"),
        ({"cos_pc1_p": 0.06}, "PC1 is no evidence"),
        ({"cos_pc1_p": None}, "PC1 is no evidence"),
        ({"default_percentile": 0.85}, "above 85\xa0% of the roles"),
        ({"top_dims_share": 0.21}, "Ten dimensions carry 21\xa0%"),
    ],
)
def test_each_fault_has_its_sentence(plenty, change, words):
    (told,) = map_warnings(plenty, replace(GOOD, **change), {})
    assert words in told


def test_a_p_that_supports_no_verdict_is_no_evidence_and_why_is_said(plenty):
    """p 0.04 of 20 roles, the default under five prompts: of true nulls 10 to 14 % reach it."""
    prompts = (DefaultPromptQuality(0.95, 0.9),) * 5
    (said,) = map_warnings(plenty, replace(GOOD, default_prompts=prompts), {})
    assert "PC1 is no evidence for the axis here (where the default has more prompts" in said


def test_roles_left_out_are_named_with_their_counts(plenty):
    (told,) = map_warnings(plenty, GOOD, {"consultant": 2, "tutor": 0})
    assert "consultant (2), tutor (0)" in told
    assert "2 of 22 roles" in told
