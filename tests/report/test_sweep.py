"""The sweep on the report's page: what was tried, the frontier, and what the best is worth."""

from dataclasses import replace

import pytest

from keel.report import render_html, render_markdown, report_account
from keel.report.figures.floors import draw_frontier, draw_screening
from keel.types import (
    Change,
    Interval,
    ScreenedSetting,
    Sweep,
    SweepMeasure,
    SweptSetting,
)


def near(value: float, by: float = 0.05) -> Interval:
    return Interval(value, value - by, value + by)


def screened(name: str, fate: str, price: float = 0.05, why: str = "") -> ScreenedSetting:
    return ScreenedSetting(name, 10, 14, 0.5, 0.4, near(price, 0.01), near(0.8), fate, why)  # type: ignore[arg-type]


def swept(name: str, harm: float, capability: float, on: bool, deciding=None) -> SweptSetting:
    return SweptSetting(name, Change(near(harm), near(capability, 0.01)), on, deciding)


NOT_TRIED = ScreenedSetting(
    "layers_1:3-k4", 1, 3, 0.01, None, None, None, "inert", "1.0% lie under"
)
SWEEP = Sweep(
    screened=(
        screened("strong", "kept", 0.09),
        screened("mild", "kept", 0.02),
        screened("poor", "kept", 0.05),
        screened("dear", "too dear", 0.4, "costs 0.400 nats per token, over 0.2"),
        NOT_TRIED,
    ),
    swept=(
        swept("mild", -0.1, -0.004, True, Change(near(-0.08), near(-0.005, 0.01))),
        swept("strong", -0.3, -0.012, True, Change(near(-0.21), near(-0.011, 0.008))),
        swept("poor", -0.05, -0.03, False),
    ),
    harm=SweepMeasure("harmful answers (jailbreak)", "share", 40, 44, 0.35),
    capability=SweepMeasure("gsm8k", "share", 50, 50, 0.4),
    tolerance=0.02,
    recommended="strong",
    warnings=("gsm8k: look twice.",),
)


def test_the_effect_told_is_that_of_the_items_held_back(inputs):
    text = render_markdown(report_account(replace(inputs, sweep=SWEEP)))
    assert "Recommended: `strong`. By the items held back it changes harm by −21.0 points" in text
    assert "(−26.0 to −16.0)" in text
    assert "they bear that out" in text


def test_the_items_made_worse_stand_beside_a_mean_change(inputs):
    strong = swept("strong", -0.3, -0.012, True)
    shares = {"more_harmful": near(0.12, 0.02), "less_capable": near(0.07, 0.02)}
    change = replace(strong.choosing, **shares)
    found = replace(SWEEP, swept=(replace(strong, choosing=change, deciding=change),))
    text = render_markdown(report_account(replace(inputs, sweep=found))).replace("\xa0", " ")
    assert "12 % (10 % to 14 %) of them more harmful and 7 % (5 % to 9 %) of them less" in text
    assert "| 12 % (10 % to 14 %) | 7 % (5 % to 9 %) |" in text


def test_what_luck_added_is_told(inputs):
    text = render_markdown(report_account(replace(inputs, sweep=SWEEP)))
    # Chosen at −30 points, borne out at −21: 9 points of it were luck, or were not.
    assert "harm changed by −30.0 points (−35.0 to −25.0), which is −9.0 points from" in text


def test_how_many_were_pruned_and_why_is_told(inputs):
    page = render_html(report_account(replace(inputs, sweep=SWEEP)))
    text = render_markdown(report_account(replace(inputs, sweep=SWEEP)))
    assert "5 settings of layers and heights were screened" in text
    assert "3 settings went on to be measured. The others were pruned: 1 too dear and 1 inert." in (
        text
    )
    assert "costs 0.400 nats per token, over 0.2" in page
    assert "gsm8k: look twice." in page


def test_without_a_recommendation_that_is_said(inputs):
    text = render_markdown(report_account(replace(inputs, sweep=replace(SWEEP, recommended=""))))
    assert "No setting is recommended." in text


def test_a_run_without_a_sweep_has_no_empty_section(inputs):
    assert "Sweep over settings" not in render_html(report_account(inputs))


def trace(figure, name: str):
    return next(one for one in figure.data if (one.name or "").startswith(name))


def test_points_lie_where_the_choosing_items_put_them_in_percentage_points():
    figure = draw_frontier(SWEEP)
    on_it, best = trace(figure, "on the frontier"), trace(figure, "recommended: strong")
    assert (on_it.x, on_it.y) == ((-10.0,), (-0.4,))
    assert (best.x, best.y, best.marker.symbol) == ((-30.0,), (-1.2,), "star")
    # ± 5 points of harm and ± 1 point of capability.
    assert best.error_x.array == pytest.approx((5.0,))
    assert best.error_y.arrayminus == pytest.approx((1.0,))


def test_the_items_held_back_draw_the_recommended_setting_once_more():
    held = trace(draw_frontier(SWEEP), "the same by the items held back")
    assert (held.x, held.y, held.marker.symbol) == ((-21.0,), (-1.1,), "star-open")


def test_the_line_joins_the_frontier_only():
    line = draw_frontier(SWEEP).data[0]
    assert line.x == (-30.0, -10.0)


def test_pruned_settings_are_faint_and_untried_ones_have_no_place():
    figure = draw_screening(SWEEP)
    faint, kept = trace(figure, "too dear (1)"), trace(figure, "kept and measured (3)")
    assert faint.marker.opacity < 0.5
    assert kept.marker.opacity is None
    assert sum(len(one.x) for one in figure.data) == 4


def test_nats_are_drawn_as_they_are():
    measure = replace(SWEEP.capability, name="log-likelihood", unit="nats per token")
    best = trace(draw_frontier(replace(SWEEP, capability=measure)), "recommended")
    assert best.y == (-0.012,)


def test_a_sweep_that_measured_nothing_can_be_drawn():
    empty = replace(SWEEP, swept=(), recommended="")
    assert draw_frontier(empty).data
    assert draw_screening(replace(empty, screened=())).data


def test_a_setting_called_like_markup_is_shown_as_text(inputs):
    name = "<script>alert(3)</script>"
    odd = replace(SWEEP, screened=(screened(name, "inert"),))
    assert name not in render_html(report_account(replace(inputs, sweep=odd)))
