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
        for tag, attributes in reader.tags
        if tag != "a"  # a link waits to be clicked
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
    assert len(re.findall(r"\* plotly\.js \(basic", page)) == 1


def test_the_page_is_under_two_megabytes(page: str) -> None:
    """It was 5 MB: of Plotly's traces only points, lines and bars are drawn."""
    assert len(page.encode()) < 2_000_000


def test_figures_draw_only_what_the_embedded_bundle_has(page: str) -> None:
    drawn = {trace["type"] for figure in figures(page).values() for trace in figure["data"]}
    assert drawn <= {"scatter", "bar"}


def test_the_story_comes_before_the_statistics(page: str) -> None:
    order = re.findall(r'<section id="([a-z-]+)"', page)
    story = ["conversation", "ranks", "space", "prices"]
    assert order[: len(story)] == story
    assert order[-1] == "words"
    assert page.index('class="lead"') < page.index('id="conversation"')
    assert page.index('id="prices"') < page.index('class="key-figures"')


def test_the_title_names_model_and_day(inputs: ReportInputs) -> None:
    made = replace(inputs, title="tour", facts=(("date", "2026-01-31T10:00:00+00:00"),))
    page = render_html(report_account(made))
    model = inputs.identity.model_id.split("/")[-1]  # type: ignore[union-attr]
    assert f"<title>{model}: tour, 2026-01-31</title>" in page


def test_figures_are_numbered_and_say_how_many_which_seed_and_model(page: str) -> None:
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL)
    assert len(captions) == 10
    for number, caption in enumerate(captions, 1):
        assert caption.startswith(f"<b>Figure {number}.</b>")
        assert "n = " in caption
        assert "interval" in caption
        assert re.search(r"\(.+, seed 0\)$", caption)


def test_words_link_to_the_glossary_where_a_section_first_uses_them(page: str) -> None:
    ranks = re.search(r'<section id="ranks".*?</section>', page, re.DOTALL)[0]  # type: ignore[index]
    assert ranks.count('href="#word-assistant-axis"') == 1
    for anchor in re.findall(r'href="#(word-[a-z-]+)"', page, re.IGNORECASE):
        assert f'id="{anchor}"' in page


def test_papers_are_linked_and_nothing_else_leaves_the_page(reader: Reader) -> None:
    links = {attributes["href"] for tag, attributes in reader.tags if tag == "a"}
    assert {link for link in links if not link.startswith("#")} == {
        "https://arxiv.org/abs/2601.10387"
    }


def _luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance."""
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(page: str, scheme: int) -> None:
    """4.5 : 1 for text (WCAG 2.2, 1.4.3), on every ground that it stands on."""
    roots = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]+);", roots[scheme]))
    for text in ("ink", "faint", "blue"):
        for ground in ("page", "sunk") if text != "ink" else ("page", "sunk", "warm", "chosen"):
            pair = sorted((_luminance(colours[text]), _luminance(colours[ground])))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (text, ground)


def test_what_scrolls_and_every_figure_can_be_reached_by_keyboard(reader: Reader) -> None:
    reached = [
        attributes for _, attributes in reader.tags if attributes.get("class") in ("scroll", "plot")
    ]
    assert reached
    assert all(attributes.get("tabindex") == "0" for attributes in reached)


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
    assert all(len(plot["aria-label"]) > 20 for plot in plots)


def test_the_buttons_of_a_figure_are_not_hidden_in_a_picture(reader: Reader) -> None:
    """What lies in an `img` is no element to a screen reader, so that eight figures' buttons could
    be reached by Tab and had no name there (axe: nested-interactive)."""
    plots = [attributes for _, attributes in reader.tags if attributes.get("class") == "plot"]
    assert {plot["role"] for plot in plots} == {"group"}


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
