"""The page is whole, safe, the same each time, and says what is missing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from keel.report import ReportInputs, render_html, report_account
from keel.types import Interval

ATTACK = "<script>alert(1)</script> & <b>bold</b> words"
IMAGE = '<img src=x onerror="alert(2)">'


class Reader(HTMLParser):
    """Tags with their attributes, ids, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._is_hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._is_hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._is_hidden = False

    def handle_data(self, data: str) -> None:
        if not self._is_hidden:
            self.text += data


def figures(page: str) -> dict[str, Any]:
    """What Plotly is given, refusing numbers that JSON does not know."""
    found = re.search(r'id="figure-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1], parse_constant=pytest.fail))


@pytest.fixture(scope="module")
def page(inputs: ReportInputs) -> str:
    return render_html(report_account(inputs))


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    return Reader(page)


def test_nothing_is_loaded_from_elsewhere(reader: Reader) -> None:
    sources = [
        attributes[name]
        for _, attributes in reader.tags
        for name in ("src", "href", "srcset", "data", "poster", "action")
        if name in attributes
    ]
    assert sources
    assert all(source.startswith(("#", "data:,")) for source in sources)


def test_the_page_forbids_itself_to_load_anything(reader: Reader) -> None:
    policies = [
        attributes["content"]
        for tag, attributes in reader.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert "default-src 'none'" in policies[0]
    assert "http" not in policies[0]


def test_plotly_is_embedded_exactly_once(page: str) -> None:
    assert len(re.findall(r"\* plotly\.js v\d", page)) == 1


def test_no_button_uploads_a_figure(page: str) -> None:
    assert "showSendToCloud: false" in page


def test_a_models_text_is_shown_and_not_run(page: str, reader: Reader) -> None:
    assert "<script>alert(1)" not in page
    assert f"{ATTACK} spoken in turn 0" in reader.text


def test_plotly_shows_a_models_tags_as_text(page: str) -> None:
    # Plotly reads <b> and &lt; in hover boxes, so both must reach it escaped.
    ghost = [
        text
        for trace in figures(page)["persona-space"]["data"]
        for text in trace["hovertext"]
        if text.startswith("<b>ghost</b>")
    ]
    shown = "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;b&gt;bold&lt;/b&gt; words"
    assert ghost == [f"<b>ghost</b><br>fictional<br><br>{shown}"]


def _with_role(inputs: ReportInputs) -> ReportInputs:
    found = inputs.persona_map
    assert found is not None
    vectors = (replace(found.vectors[0], role=IMAGE), *found.vectors[1:])
    space = replace(found.space, roles=(IMAGE, *found.space.roles[1:]))
    return replace(inputs, persona_map=replace(found, vectors=vectors, space=space))


def _with_setting(inputs: ReportInputs) -> ReportInputs:
    calibration = inputs.calibration
    assert calibration is not None
    setting = calibration.setting
    renamed = replace(setting, floors=replace(setting.floors, name=IMAGE))
    return replace(inputs, calibration=replace(calibration, settings=(renamed,), chosen=IMAGE))


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param(lambda inputs: replace(inputs, title=IMAGE), id="title"),
        pytest.param(lambda inputs: replace(inputs, warnings=(IMAGE,)), id="warning"),
        pytest.param(lambda inputs: replace(inputs, facts=((IMAGE, IMAGE),)), id="fact"),
        pytest.param(
            lambda inputs: replace(inputs, role_kinds=dict.fromkeys(inputs.role_kinds, IMAGE)),
            id="kind",
        ),
        pytest.param(
            lambda inputs: replace(
                inputs, drift=(replace(inputs.drift[0], conversation_id=IMAGE),)
            ),
            id="conversation",
        ),
        pytest.param(
            lambda inputs: replace(
                inputs, replays=(replace(inputs.replays[0], conversation_id=IMAGE),)
            ),
            id="replay",
        ),
        pytest.param(_with_role, id="role"),
        pytest.param(_with_setting, id="setting"),
    ],
)
def test_no_name_becomes_an_element(
    inputs: ReportInputs, poison: Callable[[ReportInputs], ReportInputs]
) -> None:
    page = render_html(report_account(poison(inputs)))
    reader = Reader(page)
    assert IMAGE in reader.text
    assert "img" not in {tag for tag, _ in reader.tags}
    assert "<img" not in json.dumps(figures(page))


def test_ids_are_unique_and_every_figure_has_its_place(page: str, reader: Reader) -> None:
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    places = {id.removeprefix("figure-") for id in ids if id.startswith("figure-")}
    assert places - {"data"} == set(figures(page))


def test_every_figure_is_described_for_those_who_cannot_see_it(reader: Reader) -> None:
    plots = [attributes for _, attributes in reader.tags if attributes.get("class") == "plot"]
    # Space, variance, ranks, quality, histograms, firing, prices, trajectories, tokens, replays.
    assert len(plots) == 10
    assert all(plot["role"] == "img" and len(plot["aria-label"]) > 20 for plot in plots)


def test_the_same_inputs_make_the_same_bytes_in_another_process(page: str) -> None:
    """Sets come out in another order there, which must not reach the page."""
    recipe = Path(__file__).with_name("conftest.py")
    code = (
        "import hashlib, runpy; from keel.report import render_html, report_account\n"
        f"inputs = runpy.run_path({str(recipe)!r})['synthetic_inputs'](0)\n"
        "print(hashlib.sha256(render_html(report_account(inputs)).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == hashlib.sha256(page.encode()).hexdigest()


def test_other_inputs_make_another_page(
    page: str, make_inputs: Callable[[int], ReportInputs]
) -> None:
    assert figures(render_html(report_account(make_inputs(1)))) != figures(page)


def test_a_number_that_is_none_is_shown_as_a_dash(inputs: ReportInputs) -> None:
    found = inputs.persona_map
    assert found is not None
    nothing = Interval(float("nan"), float("nan"), float("inf"))
    quality = tuple(replace(at, d_prime=nothing, axis_norm=0.0) for at in found.quality)
    page = render_html(report_account(replace(inputs, persona_map=replace(found, quality=quality))))
    assert set(figures(page)) == set(figures(render_html(report_account(inputs))))
    assert not re.search(r"\b(nan|inf)\b", Reader(page).text, re.IGNORECASE)
    assert "– standard deviations apart" in Reader(page).text


def test_half_a_surrogate_pair_does_not_stop_the_page(inputs: ReportInputs) -> None:
    page = render_html(
        report_account(replace(inputs, title="half \ud83d", samples={"ghost": "half \ud83d"}))
    )
    assert "half ?" in page
    page.encode("utf-8")


@pytest.mark.parametrize(
    ("part", "nothing", "command", "lost"),
    [
        ("persona_map", None, "keel extract smollm2 -o RUN", {"persona-space", "ranks", "quality"}),
        ("calibration", None, "keel calibrate RUN", {"histograms", "firing", "prices"}),
        ("drift", (), "keel drift RUN FILE", {"trajectories", "tokens"}),
        ("replays", (), "keel drift RUN FILE --replay", {"replay-paths"}),
    ],
)
def test_a_missing_part_leaves_the_command_that_makes_it(
    inputs: ReportInputs, part: str, nothing: Any, command: str, lost: set[str]
) -> None:
    whole = render_html(report_account(inputs))
    page = render_html(report_account(replace(inputs, **{part: nothing})))
    assert f"<code>{command}</code>" not in whole
    assert f"<code>{command}</code>" in page
    assert not lost & set(figures(page))


def test_a_run_with_nothing_in_it_still_has_a_report(inputs: ReportInputs) -> None:
    page = render_html(report_account(ReportInputs(title="new", identity=inputs.identity)))
    assert figures(page) == {}
    # Space, ranks, quality; projections, firing, prices; drift, replays.
    assert page.count('class="missing"') == 8


def test_a_warning_of_run_and_part_is_told_once(inputs: ReportInputs) -> None:
    # One of the run, one of the map; saying the map's again must not make three.
    again = replace(inputs, warnings=(*inputs.warnings, *inputs.persona_map.warnings))  # type: ignore[union-attr]
    assert "<h2>2 warnings</h2>" in render_html(report_account(again))
