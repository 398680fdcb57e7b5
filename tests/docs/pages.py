"""The pages of the docs, taken apart: code blocks, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"`([\w./-]+)`:\n\n$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    """Where its text begins, counted from 1."""
    file: str | None
    """The name of the file that it shows, where the line before it ends in one and a colon."""


def name_of(page: Path) -> str:
    """The page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        named = _FILE_NAME.search(text, 0, found.start())
        line = text.count("\n", 0, found.start(2)) + 1
        yield Block(found[1], found[2], line, named[1] if named else None)


def links(page: Path) -> Iterator[str]:
    """Targets of the page's links, code left out."""
    yield from _LINK.findall(_prose(page))


def named_tests(page: Path) -> set[str]:
    """The tests that the page names."""
    return set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))


def named_code(page: Path) -> list[tuple[str, str]]:
    """Files of the source that the page names, each with the definition named behind it, or ""."""
    prose = " ".join(_prose(page).split())
    return re.findall(r"`(src/keel/[\w./]*)`(?:: `(\w+)`)?", prose)


def anchors(page: Path) -> set[str]:
    """The names by which the page's headings can be linked to, as GitHub makes them."""
    headings = _HEADING.findall(_prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _prose(page: Path) -> str:
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))
