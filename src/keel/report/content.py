"""The parts of a report (sentences, tables, pictures) before they are rendered.

HTML, Markdown and terminal output are rendered from the same `Account`. To add a section, write a
function that returns a `Section`, and call it in `keel.report.sections`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from keel.types import Interval

if TYPE_CHECKING:
    from rich.text import Text

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Picture:
    """A figure, drawn only when a renderer needs it."""

    id: str
    """Fixed name, so that the same inputs make the same page."""
    draw: Callable[[], Any]
    """Makes the Plotly figure."""
    caption: str
    alt: str
    """What the picture shows, for those who cannot see it."""
    text: Callable[..., Text] | None = None
    """Draws it with characters, `width=` columns wide; None where a terminal cannot show it."""
    sample: str = ""
    """How many were measured, and what its intervals are: the end of the caption."""


@dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int | None = None
    """Row to be set off from the others."""
    is_folded: bool = False
    """Whether the page shows only the caption until it is clicked; Markdown and terminal leave the
    table out."""
    is_prose: bool = False
    """Whether cells hold long texts; Markdown leaves these out too."""
    bars: tuple[Interval | float | None, ...] = ()
    """One value per row, drawn as a bar beside the row in a terminal; empty for no bars."""
    bar_header: str = ""
    """What the bars show."""

    @classmethod
    def of(
        cls,
        caption: str,
        items: Iterable[_Item],
        columns: Mapping[str, Callable[[_Item], str]],
        *,
        marked: Callable[[_Item], bool] = lambda item: False,
        bars: Callable[[_Item], Interval | float | None] | None = None,
        bar_header: str = "",
        is_folded: bool = False,
        is_prose: bool = False,
    ) -> Table:
        """A table with a row per item, each column's header with what its cells say."""
        rows = list(items)
        return cls(
            caption,
            tuple(columns),
            tuple(tuple(cell(item) for cell in columns.values()) for item in rows),
            marked=next((at for at, item in enumerate(rows) if marked(item)), None),
            is_folded=is_folded,
            is_prose=is_prose,
            bars=() if bars is None else tuple(bars(item) for item in rows),
            bar_header=bar_header,
        )


@dataclass(frozen=True)
class Section:
    """One heading with what stands under it."""

    id: str
    title: str
    paragraphs: tuple[str, ...]
    """Plain sentences; `code` between backticks."""
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    warnings: tuple[str, ...] = ()
    """What speaks against relying on this section."""
    is_result: bool = True
    """Whether it shows results; a terminal leaves out what does not."""


@dataclass(frozen=True)
class KeyFigure:
    """One of the numbers at the top of the page."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Account:
    """Everything that a report says of a run, of some of its results, or of a comparison."""

    page_kind: str
    """What kind of page this is, in two or three words."""
    title: str
    facts: tuple[str, ...]
    """The model or models, in a few words each."""
    sections: tuple[Section, ...]
    lead: tuple[str, ...] = ()
    """What the page is and what was found, in a sentence or two each."""
    key_figures: tuple[KeyFigure, ...] = ()
    key_figures_before: str = ""
    """Id of the section that the page puts them before; empty for the top of the page."""
    warnings: tuple[str, ...] = ()
    date: str = ""
    basis: str = ""
    """Model and seed, which end every caption."""
    glossary: tuple[tuple[str, str], ...] = ()
    """Words and what they mean; sentences link to them."""


def missing(id: str, title: str, *, what: str, command: str) -> Section:
    """A section that only says which command makes what it would show."""
    return Section(id, title, (f"{what}: run `{command}`.",), is_result=False)
