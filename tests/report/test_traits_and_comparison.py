"""Trait space on the report's page, and runs side by side on a page of their own."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from keel.report import (
    ComparisonInputs,
    comparison_account,
    render_html,
    render_markdown,
    render_terminal,
    report_account,
)
from keel.types import (
    DefaultShift,
    Interval,
    PersonaSpace,
    RunComparison,
    Shift,
    SpaceComparison,
    TraitAxis,
    TraitMap,
    TraitVector,
    VectorComparison,
)

LAYERS, HIDDEN = 30, 8


def trait_map(count=70, with_axis=True):
    names = tuple(f"trait{n:02}" for n in range(count))
    draw = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    # The cosine of trait n grows with n, from -0.705: the ends are known.
    cosine = (torch.arange(count) / 50 - 0.705).expand(LAYERS, count).clone()
    return TraitMap(
        vectors=tuple(TraitVector(n, rand(LAYERS, HIDDEN), 40, 20, 15) for n in names),
        dropped={"vague": 3},
        space=PersonaSpace(
            names,
            rand(LAYERS, HIDDEN),
            rand(LAYERS, 3, HIDDEN),
            torch.tensor([0.5, 0.2, 0.1]).expand(LAYERS, 3).clone(),
            rand(LAYERS, count, 3),
            rand(LAYERS, count, 3),
            rand(LAYERS, 3),
            rand(LAYERS, 3),
        ),
        default_position_LN=rand(LAYERS, count),
        split_half_LN=rand(LAYERS, count),
        layer=20,
        axis=TraitAxis(cosine, cosine - 0.1, cosine + 0.1) if with_axis else None,
        warnings=("Traits left out: vague (3).",),
    )


def test_traits_stand_in_the_report_with_both_pictures(inputs):
    page = render_html(report_account(replace(inputs, trait_map=trait_map())))
    assert 'id="figure-trait-space"' in page
    assert 'id="figure-trait-cosines"' in page
    assert "Traits left out: vague (3)." in page


def test_a_run_without_traits_has_no_empty_section(inputs):
    assert "trait-space" not in render_html(report_account(inputs))


def test_the_ends_of_the_axis_are_told_and_the_middle_is_left_out(inputs):
    text = render_markdown(report_account(replace(inputs, trait_map=trait_map())))
    assert "Towards the Assistant along the axis: trait69, trait68" in text
    assert "Away from it: trait00, trait01" in text
    # |n/50 − 0.705| is at most 0.1 for n = 31 … 40: ten intervals hold 0, sixty do not.
    assert "Of 70 traits, 60 have an interval that leaves out 0" in text
    page = render_html(report_account(replace(inputs, trait_map=trait_map())))
    assert "The 10 traits in the middle are left out here." in page


def test_without_an_axis_the_section_says_so(inputs):
    text = render_markdown(report_account(replace(inputs, trait_map=trait_map(with_axis=False))))
    assert "no roles, hence no axis" in text


def test_an_encouraged_answer_is_shown_as_text(inputs):
    attack = "<script>alert(2)</script>"
    samples = {**inputs.samples, "trait:trait69/+": attack}
    page = render_html(report_account(replace(inputs, trait_map=trait_map(), samples=samples)))
    assert attack not in page
    assert "alert(2)" in page


def space(names):
    one = Interval(0.9, 0.8, 0.95)
    return SpaceComparison(names, (20, 20), (one, one), torch.eye(2), 0.31, 0.36)


@pytest.fixture
def compared():
    names = tuple(f"role{n:02}" for n in range(40))
    half = Interval(0.5, 0.4, 0.6)
    curve = (half,) * LAYERS
    shifts = tuple(Shift(n, 1 - place / 20, 0.3) for place, n in enumerate(names))
    vectors = VectorComparison(names, (0.5,) * 40, 20, curve)
    return RunComparison(
        first="runs/<b>before</b>",
        second="runs/after",
        roles=space(names),
        traits=None,
        standings=half,
        leanings=None,
        axes=curve,
        role_vectors=vectors,
        trait_vectors=None,
        shift=DefaultShift(20, 3.0, -0.4, shifts, ()),
        warnings=("Only 40 roles.",),
    )


def test_a_comparison_is_one_page_that_loads_nothing(compared):
    page = render_html(
        comparison_account(ComparisonInputs("before · after", ("a", "b"), (compared,)))
    )
    for name in ("components-1", "layers-1", "shift-roles-1"):
        assert f'id="figure-{name}"' in page
    assert "Keel comparison" in page
    assert "<b>before</b>" not in page
    assert "default-src 'none'" in page


def test_a_correlation_stands_beside_what_unrelated_roles_reach(compared):
    account = comparison_account(ComparisonInputs("a · b", ("a", "b"), (compared,)))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_terminal(account, width=200))
    for text in (render_html(account), render_markdown(account), console.export_text()):
        words = " ".join(text.split())
        assert "With 40 unrelated roles a correlation reaches ±0.31 in one of twenty." in words
        assert "one of twenty, the largest of 2 reaches 0.36" in words


def test_the_shift_is_told_with_its_way_and_its_ends(compared):
    page = render_html(comparison_account(ComparisonInputs("t", (), (compared,))))
    assert "moved by 0.40 gap units towards the roles" in page
    assert "most towards role00, role01 and role02" in page
    assert "most away from role39, role38 and role37" in page


def test_models_of_two_widths_get_loadings_and_no_cosines(compared):
    bare = replace(compared, axes=None, role_vectors=None, shift=None)
    page = render_html(comparison_account(ComparisonInputs("t", (), (bare,))))
    assert 'id="figure-components-1"' in page
    assert "layers-1" not in page
    assert "shift" not in page.split("figure-data")[0].split('<main id="content">')[1]


def test_the_same_comparison_makes_the_same_page(compared):
    inputs = ComparisonInputs("t", (), (compared, compared))
    assert render_html(comparison_account(inputs)) == render_html(comparison_account(inputs))
