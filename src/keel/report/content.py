"""The parts that a report is made of, before they are drawn or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Picture:
    """A figure that is drawn when a page asks for it."""

    id: str
    """Fixed name, so that the same inputs make the same page."""
    draw: Callable[[], Any]
    """Makes the Plotly figure."""
    caption: str
    alt: str
    """What the picture shows, for those who cannot see it."""


@dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int | None = None
    """Row to be set off from the others."""
    is_folded: bool = False
    """Whether the page shows only the caption until it is asked for; Markdown leaves it out."""
    is_prose: bool = False
    """Whether cells hold long texts; Markdown leaves these out too."""


@dataclass(frozen=True)
class Section:
    """One heading with what stands under it."""

    id: str
    title: str
    paragraphs: tuple[str, ...]
    """Plain sentences; `code` between backticks."""
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class KeyFigure:
    """One of the numbers at the top of the page."""

    label: str
    value: str
    note: str


def missing(id: str, title: str, *, what: str, command: str) -> Section:
    """A section that only says which command makes what it would show."""
    return Section(id, title, (f"{what}: run `{command}`.",))
