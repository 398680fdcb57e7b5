"""The docs as a site: built without a warning, whole, and loading nothing from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT

pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'keel-llm[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` does; a warning of the builder fails it."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stderr
    return folder


class _Loaded(HTMLParser):
    """Addresses that a browser loads by itself when it opens the page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = "href" if tag == "link" else "src"
        if tag != "a" and given.get(name):
            self.addresses.append(str(given[name]))


def test_every_page_of_the_docs_is_on_the_site(site: Path):
    pages = [page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")]
    missing = [page for page in pages if not (site / str(page).replace("README", "index")).exists()]
    assert pages
    assert not missing


def test_the_site_loads_nothing_from_elsewhere(site: Path):
    for page in site.rglob("*.html"):
        loaded = _Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert not [a for a in loaded.addresses if re.match(r"(https?:)?//", a)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?https?:", style.read_text(encoding="utf-8"))


def test_the_api_reference_shows_docstrings_and_can_be_searched(site: Path):
    page = (site / "api" / "keel.steering.html").read_text(encoding="utf-8")
    assert "Applies interventions to every forward pass of the model inside the context." in page
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = [entry["location"] for entry in index["docs"]]
    assert any(place.startswith("api/keel.steering.html#") for place in places)


def test_a_link_to_a_file_that_the_site_lacks_is_its_name(site: Path):
    """docs/decisions name tests as evidence; the site has no tests."""
    page = (site / "decisions" / "0008-pip-and-constraints.html").read_text(encoding="utf-8")
    assert "constraints.txt</a>" not in page
    assert "constraints.txt" in page
