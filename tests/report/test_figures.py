"""Figures hold the numbers of the inputs, where a reader looks for them."""

from __future__ import annotations

import html
import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keel.report import ReportInputs
from keel.report.figures import theme
from keel.report.figures.drift import draw_replays, draw_tokens, draw_trajectories
from keel.report.figures.floors import draw_firing, draw_histograms, draw_prices
from keel.report.figures.personas import draw_quality, draw_ranks, draw_space
from keel.report.figures.theme import Canvas, position_labels
from keel.report.inputs import RoleStanding
from keel.types import Calibration, PersonaMap, PersonaSpace, PricedSetting


@pytest.fixture(scope="module")
def found(inputs: ReportInputs) -> PersonaMap:
    assert inputs.persona_map is not None
    return inputs.persona_map


@pytest.fixture(scope="module")
def calibration(inputs: ReportInputs) -> Calibration:
    assert inputs.calibration is not None
    return inputs.calibration


def named(figure: Any, name: str) -> Any:
    """The trace of a name."""
    return next(trace for trace in figure.data if trace.name == name)


def box(x: float, y: float, name: str, place: str) -> tuple[float, float, float, float]:
    """Where Plotly writes a name of 11 px letters beside a dot of radius 6, in pixels."""
    width, height, gap = len(name) * 11 * 0.62, 11 * 1.25, 7
    vertical, horizontal = place.split()
    left = {"left": x - gap - width, "center": x - width / 2, "right": x + gap}[horizontal]
    top = {"top": y - gap - height, "middle": y - height / 2, "bottom": y + gap}[vertical]
    return left, top, left + width, top + height


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    slack = 1e-6
    return (
        one[0] < other[2] - slack
        and other[0] < one[2] - slack
        and one[1] < other[3] - slack
        and other[1] < one[3] - slack
    )


points = st.lists(
    st.tuples(st.floats(0, 300), st.floats(0, 200)), min_size=1, max_size=25, unique=True
)


@given(points)
@settings(max_examples=60, deadline=None)
def test_no_name_covers_another_name_or_a_point(spots: list[tuple[float, float]]) -> None:
    names = [f"role_{i}" for i in range(len(spots))]
    canvas = Canvas(300, 200, (0, 300), (0, 200))
    places = position_labels(canvas, spots, names)
    boxes = [
        box(x, 200 - y, name, place)
        for (x, y), name, place in zip(spots, names, places, strict=True)
        if place
    ]
    assert not any(overlap(one, other) for one, other in itertools.combinations(boxes, 2))
    dots = [(x - 6, 194 - y, x + 6, 206 - y) for x, y in spots]
    assert not any(overlap(written, dot) for written in boxes for dot in dots)
    assert all(b[0] >= 0 and b[1] >= 0 and b[2] <= 300 and b[3] <= 200 for b in boxes)


def test_a_name_that_must_be_there_chooses_first() -> None:
    canvas = Canvas(100, 60, (0, 100), (0, 60))
    crowd = [(50.0 + i, 30.0) for i in range(5)]
    places = position_labels(canvas, crowd, ["abcd"] * 5, first=[2])
    assert places[2] == "top center"  # the dots beside it take both sides


def test_a_point_without_a_place_is_passed_over() -> None:
    canvas = Canvas(100, 100, (0, 1), (0, 1))
    assert position_labels(canvas, [(math.nan, 0.5), (0.5, 0.5)], ["a", "b"]) == [
        "",
        "middle right",
    ]


def test_the_scatter_holds_every_role_where_it_lies(
    inputs: ReportInputs, found: PersonaMap
) -> None:
    figure = draw_space(found.space, 20, kinds=inputs.role_kinds, samples=inputs.samples)
    rows = [i for i, role in enumerate(found.space.roles) if inputs.kind_of(role) == "collective"]
    expected = found.space.coordinates_LRK[20, rows]
    trace = named(figure, "collective")
    assert list(trace.x) == pytest.approx(expected[:, 0].tolist(), rel=1e-4)
    assert list(trace.y) == pytest.approx(expected[:, 1].tolist(), rel=1e-4)
    assert named(figure, "default: the Assistant").marker.color == theme.DEFAULT_COLOUR


def test_the_slider_goes_through_all_layers_and_starts_at_the_recommended(
    inputs: ReportInputs, found: PersonaMap
) -> None:
    figure = draw_space(found.space, 20, kinds=inputs.role_kinds, samples={})
    slider = figure.layout.sliders[0]
    assert slider.active == 20
    assert [step.label for step in slider.steps] == [str(layer) for layer in range(30)]
    traces, _ = slider.steps[7].args
    default = found.space.default_coordinates_LK[7, 0]
    assert traces["x"][-1] == pytest.approx([float(default)], rel=1e-4)


def test_a_name_left_out_is_a_blank_that_a_later_layer_can_fill(
    inputs: ReportInputs, found: PersonaMap
) -> None:
    """Plotly removes the text of an empty string for good; names stayed away on other layers."""
    figure = draw_space(found.space, 20, kinds=inputs.role_kinds, samples={})
    steps = figure.layout.sliders[0].steps
    texts = [text for step in steps for trace in step.args[0]["text"] for text in trace]
    assert "\N{NO-BREAK SPACE}" in texts
    assert "" not in texts


def test_two_roles_make_a_space_of_one_component() -> None:
    one_LRK = torch.tensor([[[1.0], [-1.0]]])
    line = PersonaSpace(
        roles=("bard", "ghost"),
        mean_LD=torch.zeros(1, 2),
        components_LKD=torch.tensor([[[1.0, 0.0]]]),
        variance_ratio_LK=torch.ones(1, 1),
        loadings_LRK=one_LRK,
        coordinates_LRK=one_LRK,
        default_loadings_LK=torch.ones(1, 1),
        default_coordinates_LK=torch.tensor([[2.0]]),
    )
    figure = draw_space(line, 0, kinds={}, samples={})
    assert list(named(figure, "role").y) == [0.0, 0.0]


def test_kinds_differ_in_colour_or_symbol() -> None:
    assert len({theme.kind_style(place) for place in range(16)}) == 16


def test_the_default_stands_between_the_roles_below_and_above_it() -> None:
    standings = [
        RoleStanding("bard", "all", 9, -3.0, -0.5),
        RoleStanding("tutor", "all", 9, 1.0, 0.8),
        RoleStanding("editor", "all", 9, 2.0, 1.2),
    ]
    figure = draw_ranks(standings, kinds={}, samples={})
    rows = dict(zip(figure.layout.yaxis.ticktext, figure.layout.yaxis.tickvals, strict=True))
    assert (rows["bard"], rows["tutor"], rows["editor"]) == (0, 1, 3)
    default = named(figure, "default: the Assistant")
    assert (list(default.x), list(default.y)) == ([1.0], [2])
    assert list(named(figure, "role").x) == [-0.5, 0.8, 1.2]


def test_the_band_of_the_floors_is_shaded_in_every_panel(found: PersonaMap) -> None:
    figure = draw_quality(found.quality, found.axis, band=(18, 19, 20))
    spans = [(s.x0, s.x1) for s in figure.layout.shapes if s.type == "rect"]
    assert spans == [(17.5, 20.5)] * 6
    lines = [s.x0 for s in figure.layout.shapes if s.type == "line"]
    assert lines == [20] * 6


def test_the_interval_is_drawn_around_the_line(found: PersonaMap) -> None:
    figure = draw_quality(found.quality, found.axis)
    band, line = figure.data[:2]
    assert list(line.y) == pytest.approx([at.auc.value for at in found.quality], rel=1e-4)
    assert band.y[20] == pytest.approx(found.quality[20].auc.high, rel=1e-4)
    assert band.y[-21] == pytest.approx(found.quality[20].auc.low, rel=1e-4)


def test_the_floor_stands_in_its_own_layers_histogram(calibration: Calibration) -> None:
    layers = [layer for layer in calibration.layers if layer.layer in (18, 19)]
    figure = draw_histograms(layers, {18: 1.5, 19: -2.5})
    lines = [list(trace.x) for trace in figure.data if trace.name == "floor"]
    assert lines == [[1.5, 1.5], [-2.5, -2.5]]
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(shown) == ["default tokens", "floor", "role tokens"]


def test_firing_bars_are_percentages_of_tokens(calibration: Calibration) -> None:
    setting: PricedSetting = replace(
        calibration.setting, nominal_firing={3: 0.75, 4: 0.75}, realised_firing={3: 0.7, 4: 0.2}
    )
    figure = draw_firing(setting)
    assert [list(trace.y) for trace in figure.data] == [[75.0, 75.0], [70.0, 20.0]]
    assert [shape.y0 for shape in figure.layout.shapes] == [15.0, 80.0]


def test_the_bound_is_a_line_at_its_price(calibration: Calibration) -> None:
    figure = draw_prices(calibration)
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.shapes[0].x0 == calibration.price_bound
    # Plotly wants the logarithm for texts only.
    assert figure.layout.annotations[0].x == pytest.approx(math.log10(calibration.price_bound))
    chosen = named(figure, "chosen")
    assert list(chosen.x) == pytest.approx([calibration.setting.kl_default], rel=1e-4)
    assert list(chosen.y) == pytest.approx([calibration.setting.shift_gaps], rel=1e-4)


def test_a_price_of_nothing_keeps_the_scale_linear(calibration: Calibration) -> None:
    free = replace(calibration.settings[0], kl_default=0.0)
    others = (free, *calibration.settings[1:])
    assert draw_prices(replace(calibration, settings=others)).layout.xaxis.type == "linear"


def test_turns_that_are_low_are_rings_and_the_floor_a_line(
    inputs: ReportInputs, found: PersonaMap
) -> None:
    reading = inputs.drift[1]
    figure = draw_trajectories([reading], found.axis)
    symbols = figure.data[0].marker.symbol
    low = [turn.is_low for turn in reading.turns]
    assert True in low
    assert [symbol == "circle-open" for symbol in symbols] == low
    assert list(figure.data[0].x) == list(range(1, 13))
    # The floor of the synthetic run lies at 0.3 gap units.
    assert [shape.y0 for shape in figure.layout.shapes] == pytest.approx([1, 0, 0.3], abs=1e-4)


def test_the_level_that_is_expected_at_each_turn_is_a_line_of_its_own(
    inputs: ReportInputs, found: PersonaMap
) -> None:
    turns = tuple(
        replace(turn, expected_gaps=1 - 0.1 * turn.turn, gaps_alone=0.9)
        for turn in inputs.drift[1].turns
    )
    figure = draw_trajectories([replace(inputs.drift[1], turns=turns)], found.axis)
    expected = named(figure, "expected at this turn")
    assert list(expected.y) == pytest.approx([1 - 0.1 * n for n in range(12)])
    alone = next(trace for trace in figure.data if "without history" in trace.name)
    assert list(alone.y) == [0.9] * 12
    bare = tuple(replace(turn, expected_gaps=None) for turn in turns)
    figure = draw_trajectories([replace(inputs.drift[1], turns=bare)], found.axis)
    assert all("expected" not in trace.name for trace in figure.data)


def test_token_traces_show_one_conversation_at_a_time(
    inputs: ReportInputs, found: PersonaMap
) -> None:
    figure = draw_tokens(inputs.drift, found.axis)
    assert [trace.visible for trace in figure.data] == [True] * 3 + [False] * 6
    second = figure.layout.updatemenus[0].buttons[1]
    assert second.label == "moon"
    assert second.args[0]["visible"] == [False] * 3 + [True] * 3 + [False] * 3


def test_a_long_trace_is_averaged_and_says_so(inputs: ReportInputs) -> None:
    turn = replace(inputs.drift[0].turns[0], token_projections=tuple([1.0, 3.0] * 1000))
    figure = draw_tokens([replace(inputs.drift[0], turns=(turn,))], None)
    trace = named(figure, "mean of 2 tokens")  # 2000 tokens, at most 1500 points
    assert set(trace.y) == {2.0}
    assert len(trace.y) == 1000


def test_replays_show_both_arms(inputs: ReportInputs, found: PersonaMap) -> None:
    replay = inputs.replays[0]
    figure = draw_replays([replay], found.axis)
    for name, arm in (("uncapped", "uncapped"), ("capped", "capped")):
        expected = [getattr(turn, arm).gaps for turn in replay.turns]
        assert list(named(figure, name).y) == pytest.approx(expected, rel=1e-4)


def test_a_point_of_a_replay_says_question_answer_and_number(
    inputs: ReportInputs, found: PersonaMap
) -> None:
    turn = inputs.replays[0].turns[0]
    box = named(draw_replays([inputs.replays[0]], found.axis), "capped").hovertext[0]
    said = " ".join(html.unescape(box.replace("<br>", " ")).split())
    for text in (turn.user, turn.capped.text):
        assert " ".join(text.split())[:40] in said
    assert "gap units" in said
