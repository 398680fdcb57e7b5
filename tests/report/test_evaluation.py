"""The section on an evaluation: the paired table with its controls, and pictures that draw."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from keel.cli.results import evaluation_record
from keel.report import render_html, render_markdown, render_terminal, report_account
from keel.report.figures.evaluation import draw_label_curve, draw_label_shares, draw_rates
from keel.report.sections.evaluation import evaluation_sections
from keel.types import ArmResult, EvalResult, Interval

LABELS = ("assistant", "human", "mystical")


def arm(name: str, value: float, shares: tuple[float, ...], **more: object) -> ArmResult:
    return ArmResult(
        name, 40, Interval(value, value - 0.1, value + 0.1), dict(zip(LABELS, shares, strict=True)),
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


RESULT = EvalResult(
    suite="susceptibility",
    measure="answers of one who is not an assistant",
    judge="heuristic-1",
    rubric="identity-v1-abc",
    arms=(
        arm("none", 0.4, (0.6, 0.3, 0.1), nonsensical_rate=0.05, perplexity=3.2, mean_tokens=31.0),
        arm(
            "capped",
            0.2,
            (0.8, 0.15, 0.05),
            difference=Interval(-0.2, -0.3, -0.1),
            p_value=0.0004,
            p_holm=0.0012,
            firing_rate=0.31,
            projection_gaps=0.9,
            note="floors layers_18:23-p75",
        ),
        arm("steered:-0.5", 0.9, (0.1, 0.5, 0.4), difference=Interval(0.5, 0.4, 0.6), p_value=0.01),
        arm(
            "steered:+0.5", 0.1, (0.9, 0.1, 0.0), difference=Interval(-0.3, -0.4, -0.2), unjudged=2
        ),
        arm("random", 0.38, (0.6, 0.3, 0.1), difference=Interval(-0.02, -0.1, 0.06), p_value=0.7),
    ),
    baseline=arm("baseline", 0.15, (0.85, 0.15, 0.0)),
    settings={"limit": "40", "seed": "0"},
    reading=("capped lowers it by 20 points. That is more than random does.",),
    warnings=("arm 'random' is silent at layer 3",),
)


@pytest.fixture
def evaluated(inputs):
    return replace(inputs, evaluations={"susceptibility": RESULT, "mine": RESULT})


def test_a_run_without_evaluations_has_no_such_section(inputs):
    assert evaluation_sections(inputs) == ()


def test_every_arm_stands_in_the_table_the_controls_among_them(evaluated):
    section = evaluation_sections(evaluated)[0]
    rows = {row[0]: row for row in section.tables[0].rows}
    assert set(rows) == {*(a.arm for a in RESULT.arms), "bare requests"}
    assert rows["capped"][2] == "0.200 (0.100 to 0.300)"
    assert rows["capped"][3] == "−0.200 (−0.300 to −0.100)"
    assert rows["capped"][5] == "< 0.001"
    assert rows["none"][3] == rows["none"][4] == rows["none"][5] == "–"
    assert rows["steered:+0.5"][1] == "40 (2 unjudged)"


def test_of_few_personas_it_is_said_at_the_numbers_on_the_page_in_the_terminal_and_in_json(
    evaluated,
):
    """It stood in a sentence above; the table's p and JSON's `p_value` were bare."""
    few = replace(RESULT, fixed={"persona": 4})
    account = report_account(replace(evaluated, evaluations={"susceptibility": few}))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render_terminal(account, width=100))
    told = "for the 4 personas asked alone, p too"
    for text in (render_html(account), render_markdown(account), console.export_text()):
        assert told in " ".join(text.split())
    assert told not in render_markdown(report_account(evaluated))
    record = evaluation_record(few)
    assert all(arm["fixed"] == {"persona": 4} for arm in (*record["arms"], record["baseline"]))


def test_of_skewed_scores_it_is_said_at_the_numbers_on_the_page_in_the_terminal_and_in_json(
    evaluated,
):
    """It stood in docs/statistics.md alone: of very skewed scores intervals held 73 %."""
    marked = replace(RESULT.arms[1], is_rate_skewed=True, is_difference_skewed=True)
    skewed = replace(RESULT, arms=(RESULT.arms[0], marked, *RESULT.arms[2:]))
    account = report_account(replace(evaluated, evaluations={"susceptibility": skewed}))
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(render_terminal(account, width=400))
    for text in (render_html(account), render_markdown(account), console.export_text()):
        words = " ".join(text.split())
        assert "so skewed that the interval is likely too narrow" in words
        assert "0.200 (0.100 to 0.300), skewed" in words
        assert "−0.200 (−0.300 to −0.100), skewed" in words
    assert "skewed" not in render_markdown(report_account(evaluated))
    capped = evaluation_record(skewed)["arms"][1]
    assert capped["is_rate_skewed"] is capped["is_difference_skewed"] is True


def test_what_can_be_concluded_is_said_in_words(evaluated):
    section = evaluation_sections(evaluated)[0]
    assert "That is more than random does." in " ".join(section.paragraphs)
    assert section.warnings == ("arm 'random' is silent at layer 3",)
    page = render_html(report_account(evaluated))
    assert "Beware: arm &#39;random&#39; is silent at layer 3" in page


def test_two_evaluations_have_sections_and_pictures_of_their_own(evaluated):
    sections = evaluation_sections(evaluated)
    ids = [picture.id for section in sections for picture in section.pictures]
    assert len(set(ids)) == len(ids) == 6
    assert len({section.id for section in sections}) == 2


def test_the_curve_of_labels_runs_over_strengths_with_none_at_zero(evaluated):
    curve = evaluation_sections(evaluated)[0].pictures[2].draw()
    assert list(curve.data[0].x) == [-0.5, 0, 0.5]
    assert [trace.name for trace in curve.data] == list(LABELS)
    assert [trace.y[0] for trace in curve.data] == [0.1, 0.5, 0.4]


def test_too_few_strengths_draw_no_curve(inputs):
    few = replace(RESULT, arms=RESULT.arms[:3])
    section = evaluation_sections(replace(inputs, evaluations={"a": few}))[0]
    assert [picture.id for picture in section.pictures] == ["rates-a", "labels-a"]


def test_rates_are_drawn_with_their_intervals():
    figure = draw_rates(RESULT.arms, measure="harm", baseline=Interval(0.15, 0.1, 0.2))
    (points,) = figure.data
    assert list(points.x) == [0.4, 0.2, 0.9, 0.1, 0.38]
    assert points.error_x.array[0] == pytest.approx(0.1)
    assert list(figure.layout.xaxis.range) == [0, 1]


def test_scores_are_drawn_on_an_axis_of_their_own():
    arms = [replace(RESULT.arms[0], rate=Interval(55.0, 50.0, 60.0))]
    low, high = draw_rates(arms, measure="score", baseline=None).layout.xaxis.range
    assert 0 < low < 50
    assert 60 < high < 100


def test_stacked_shares_are_those_of_the_labels():
    figure = draw_label_shares(RESULT.arms[:2], dict.fromkeys(LABELS, "#000000"))
    assert [list(trace.x) for trace in figure.data] == [[0.6, 0.8], [0.3, 0.15], [0.1, 0.05]]
    assert draw_label_curve([(0.0, RESULT.arms[0])], dict.fromkeys(LABELS, "#000000")).data


def test_the_page_and_the_markdown_hold_it(evaluated):
    assert "evaluation-mine" in render_html(report_account(evaluated))
    assert "−0.200 (−0.300 to −0.100)" in render_markdown(report_account(evaluated))


def test_a_result_of_scores_has_no_picture_of_labels(inputs):
    scores = replace(RESULT, arms=tuple(replace(arm, labels={}) for arm in RESULT.arms), rubric="")
    section = evaluation_sections(replace(inputs, evaluations={"gsm8k": scores}))[0]
    assert [picture.id for picture in section.pictures] == ["rates-gsm8k"]
