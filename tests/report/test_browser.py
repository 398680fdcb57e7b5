"""The page as a browser draws it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from keel.report import ReportInputs, render_html, report_account

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
Opened = tuple[str, str]
"""The document after its scripts ran, and what they wrote to the console."""

pytestmark = pytest.mark.browser


@pytest.fixture
def open_page(tmp_path: Path) -> Callable[[str], Opened]:
    browser = next((path for name in NAMES if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser found: looked for {', '.join(NAMES)}")

    def opened(page: str) -> Opened:
        place = tmp_path / "report.html"
        place.write_text(page, encoding="utf-8")
        switches = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
        ]
        switches += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
        switches += ["--virtual-time-budget=10000", "--window-size=1200,3000", "--dump-dom"]
        command = [browser, *switches, place.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout, "\n".join(console)

    return opened


def test_all_figures_are_drawn_and_nothing_complains(
    inputs: ReportInputs, open_page: Callable[[str], Opened]
) -> None:
    document, console = open_page(render_html(report_account(inputs)))
    assert console == ""
    plots = re.findall(r'<div class="plot js-plotly-plot" id="figure-([a-z-]+)"', document)
    assert len(plots) == 10
    for id in plots:
        after = document.split(f'id="figure-{id}"')[1]
        assert 'class="main-svg"' in after.split('id="figure-')[0]


def test_a_run_with_nothing_in_it_opens_quietly(
    inputs: ReportInputs, open_page: Callable[[str], Opened]
) -> None:
    _, console = open_page(
        render_html(report_account(ReportInputs(title="new", identity=inputs.identity)))
    )
    assert console == ""


def test_names_come_back_when_the_slider_moves(
    inputs: ReportInputs, open_page: Callable[[str], Opened]
) -> None:
    """A name without room on one layer was gone on all others."""
    script = """<script>
      const plot = document.getElementById("figure-persona-space");
      const step = recorded["persona-space"].layout.sliders[0].steps[3].args;
      Plotly.update(plot, ...step).then(() => {
        const texts = [...plot.querySelectorAll(".textpoint text")].map((t) => t.textContent);
        document.body.dataset.shown = JSON.stringify(texts);
        document.body.dataset.wanted = JSON.stringify(step[0].text.flat());
      });
    </script></body>"""
    document, console = open_page(render_html(report_account(inputs)).replace("</body>", script))
    assert console == ""
    shown, wanted = (
        json.loads(unescape(re.search(rf'data-{name}="(.*?)"', document)[1]))  # type: ignore[index]
        for name in ("shown", "wanted")
    )
    blank = "\N{NO-BREAK SPACE}"
    assert sorted(t.strip(blank) for t in shown) == sorted(t.strip(blank) for t in wanted)
