"""The page as somebody uses it: in a browser, by keyboard, narrow, dark, twice."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keel.drift import read_transcripts

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_MS = 60_000

pytestmark = pytest.mark.browser

CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgba(getComputedStyle(node).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const ink = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(rgba(ink)), light(behind(node))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) low.push([walker.currentNode.textContent.trim(), contrast]);
  }
  return low;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api")
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser found: looked for {', '.join(NAMES)}")
    with driver.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(held_run: Path) -> Iterator[str]:
    """Where `keel ui` serves the run; Ctrl-C ends it."""
    command = [sys.executable, "-m", "keel", "ui", str(held_run), "--json", "--port", "0"]
    command += ["--device", "cpu", "--dtype", "float32", "--max-new-tokens", "8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        lines = [served.stdout.readline() for _ in range(4)]
        yield json.loads("".join(lines))["address"]
        served.send_signal(signal.SIGINT)
        assert served.wait(60) == 130


@pytest.fixture
def open_tab(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """A page that is ready; whatever its scripts complain of fails the test."""
    contexts, complaints = [], []

    def opened(context: Any = None, **options: Any) -> Any:
        if context is None:
            context = browser.new_context(accept_downloads=True, **options)
            contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(PATIENCE_MS)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(address)
        tab.wait_for_selector("#map circle", state="attached")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def answered(tab: Any, count: int = 1) -> None:
    """Wait until so many messages are answered on both sides."""
    tab.wait_for_function(
        f"() => document.querySelectorAll('article .acted').length === {2 * count}"
        " && document.getElementById('stop').disabled"
    )


def test_a_message_is_sent_and_answered_by_keyboard_alone(open_tab):
    tab = open_tab()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")  # the link that leads to the message
    tab.wait_for_function("() => document.activeElement.id === 'message'")
    tab.keyboard.type("Who are you?")
    tab.keyboard.press("Control+Enter")
    answered(tab)
    assert "No cap acted" in tab.inner_text("article[data-side=uncapped] .acted")
    assert "slots (token × layer) raised" in tab.inner_text("article[data-side=capped] .acted")
    assert tab.query_selector_all("article .answer span[title$=gaps]")


def test_every_control_is_reached_by_the_tab_key_in_the_order_of_the_page(open_tab):
    tab = open_tab()
    reached = []
    for _ in range(40):
        tab.keyboard.press("Tab")
        reached.append(
            tab.evaluate("() => document.activeElement.id || document.activeElement.name")
        )
    expected = ["load", "coloured", "message", "send", "preset", "role", "system", "sides"]
    expected += ["band", "percentile", "strength", "tokens", "temperature"]
    assert [each for each in reached if each in expected][: len(expected)] == expected


def test_a_reload_keeps_the_conversation_and_a_second_tab_has_its_own(open_tab):
    tab = open_tab()
    tab.fill("#message", "Who are you?")
    tab.click("#send")
    answered(tab)
    text = tab.inner_text("#turns")
    tab.reload()
    tab.wait_for_selector("#turns li")
    assert tab.inner_text("#turns") == text
    other = open_tab(tab.context)
    assert other.query_selector_all("#turns li") == []
    for each in (tab, other):
        each.fill("#message", "And the sea?")
        each.click("#send")
    answered(tab, 2)
    answered(other, 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_nothing_is_hidden_at_a_phones_width(open_tab, scheme):
    """WCAG AA: 4.5 to 1, also on coloured tokens."""
    tab = open_tab(viewport={"width": 360, "height": 780}, color_scheme=scheme)
    tab.fill("#message", "Who are you?")
    tab.click("#send")
    answered(tab)
    tab.evaluate("document.getElementById('map-box').open = true")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.evaluate(CONTRASTS) == []
    # The strongest colours that a token can have.
    weigh = "document.querySelectorAll('.answer span').forEach((s, n) => {"
    weigh += "s.style.setProperty('--weight', 1); s.classList.toggle('low', n % 2)})"
    tab.evaluate(weigh)
    assert tab.evaluate(CONTRASTS) == []


def test_escape_stops_an_answer_and_what_was_written_is_measured(open_tab):
    tab = open_tab()
    tab.fill("#tokens", "3000")
    tab.fill("#message", "Tell me a long story.")
    tab.click("#send")
    tab.wait_for_function("() => document.querySelector('.writing')?.textContent.length > 20")
    tab.keyboard.press("Escape")
    tab.wait_for_selector(".needle")
    assert "stopped" in tab.inner_text("article[data-side=uncapped] .acted")
    assert "Not answered on this side" in tab.inner_text("article[data-side=capped]")


def test_an_error_is_shown_in_words_and_the_message_is_kept(open_tab):
    tab = open_tab()
    tab.fill("#message", "x" * 5000)
    tab.click("#send")
    tab.wait_for_selector("#problem:not([hidden])")
    assert "the model's context holds" in tab.inner_text("#problem")
    assert tab.input_value("#message") == "x" * 5000
    assert tab.query_selector_all("#turns li") == []


def test_a_click_on_the_map_answers_as_that_role(open_tab):
    tab = open_tab()
    tab.click("#map circle[data-role=ghost]", force=True)
    assert tab.input_value("#role") == "ghost"
    assert tab.input_value("#system").startswith("You are a ghost")


def test_what_is_saved_is_read_by_keel_and_by_the_page(open_tab, tmp_path):
    tab = open_tab()
    tab.fill("#system", "You are a ghost.")
    tab.fill("#message", "Who are you?")
    tab.click("#send")
    answered(tab)
    with tab.expect_download() as download:
        tab.click("#save")
    path = tmp_path / "talk.jsonl"
    download.value.save_as(path)
    conversations = read_transcripts([path]).conversations
    assert [each.id for each in conversations] == ["uncapped", "capped"]
    speakers = [message.speaker for message in conversations[1].messages]
    assert speakers == ["system", "user", "assistant"]
    tab.set_input_files("#file", path)
    tab.wait_for_function(
        "() => document.getElementById('status').textContent.includes('measured')"
    )
    assert tab.inner_text("article h3") == "As loaded"
    assert len(tab.query_selector_all("#conversation option")) == 2
