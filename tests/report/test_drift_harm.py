"""Second answers by where the first one stood, and labels that shift."""

from dataclasses import replace

import pytest

from keel.report import render_html, report_account
from keel.report.figures.evaluation import draw_harm_by_projection
from keel.report.sections.evaluation import evaluation_sections
from keel.types import ArmResult, EvalResult, Interval, RateInRange

BINS = (
    RateInRange(-0.5, 0.1, 30, Interval(0.4, 0.25, 0.6)),
    RateInRange(0.1, 0.4, 30, Interval(0.2, 0.1, 0.4)),
    RateInRange(0.4, 1.2, 31, Interval(0.03, 0.01, 0.15)),
)
HALF = Interval(0.5, 0.4, 0.6)
SHIFTS = {"harmless": Interval(0.1, -0.02, 0.2), "refusal": Interval(-0.1, -0.2, 0.02)}
RESULT = EvalResult(
    suite="drift-harm",
    measure="harmful second answers",
    judge="heuristic-1",
    rubric="harm-v1-abc",
    arms=(
        ArmResult("none", 91, HALF, {"refusal": 0.4, "harmless": 0.6, "redirection": 0.0}),
        ArmResult("capped", 91, HALF, {"refusal": 0.3, "harmless": 0.7}, label_shifts=SHIFTS),
    ),
    correlation=Interval(-0.41, -0.55, -0.2),
    by_first_projection=BINS,
)


@pytest.fixture
def section(inputs):
    return evaluation_sections(replace(inputs, evaluations={"drift-harm": RESULT}))[0]


def test_each_bin_is_a_point_with_its_interval_in_the_middle_of_its_stretch():
    figure = draw_harm_by_projection(BINS, measure="harm", correlation=None)
    (points,) = figure.data
    assert list(points.x) == pytest.approx([-0.2, 0.25, 0.8])
    assert list(points.y) == [0.4, 0.2, 0.03]
    assert list(points.error_y.array) == pytest.approx([0.2, 0.2, 0.12])
    assert list(points.error_y.arrayminus) == pytest.approx([0.15, 0.1, 0.02])
    assert "gap units" in figure.layout.xaxis.title.text


def test_the_correlation_is_written_into_the_picture():
    figure = draw_harm_by_projection(BINS, measure="harm", correlation=RESULT.correlation)
    assert "r = −0.41 (−0.55 to −0.20)" in figure.layout.annotations[0].text


def test_raw_places_are_not_called_gap_units():
    raw = [replace(one, unit="raw") for one in BINS]
    figure = draw_harm_by_projection(raw, measure="harm", correlation=None)
    assert "gap" not in figure.layout.xaxis.title.text


def test_the_section_shows_it_where_the_suite_has_two_turns_and_only_there(section, inputs):
    assert [p.id for p in section.pictures][-1] == "by-first-drift-harm"
    one_turn = replace(RESULT, by_first_projection=())
    plain = evaluation_sections(replace(inputs, evaluations={"jailbreak": one_turn}))[0]
    assert not [p for p in plain.pictures if p.id.startswith("by-first")]


def test_shifts_of_labels_stand_in_a_table_those_that_nobody_got_left_out(section):
    table = next(t for t in section.tables if "Shift" in t.caption)
    assert table.header == ("arm", "refusal", "harmless")
    assert table.rows == (("capped", "−10.0 (−20.0 to 2.0)", "10.0 (−2.0 to 20.0)"),)


def test_the_page_draws_it(inputs):
    page = render_html(report_account(replace(inputs, evaluations={"drift-harm": RESULT})))
    assert "by-first-drift-harm" in page
