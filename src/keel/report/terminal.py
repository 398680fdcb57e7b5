"""Renders an account in a terminal: the report's sections, fitted to a width."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from keel.report.content import Account, Section, Table
from keel.report.textplot import draw_bars, plain_line

_WIDEST_PROSE = 100
"""Columns beyond which a sentence is hard to read."""
_WIDEST_CELL = 44
"""Cells longer than this are wrapped; shorter ones, numbers among them, never."""
_WIDEST_BAR, _SHORTEST_BAR = 24, 7
_HEADER_CELL = 7
"""Width up to which a header may widen its column; longer ones are broken between words."""
_GAP = _INDENT = 2
_NUMERIC = re.compile(r"([−+]|< )?\d.*|–|")


def render_terminal(account: Account, *, width: int) -> Group:
    """Renders key figures, every section that shows results, then the warnings.

    A table too wide for the terminal is printed in several blocks, each with the first column:
    no number is ever cut.
    """
    parts: list[RenderableType] = []
    if account.key_figures:
        grid = Grid.grid(padding=(0, _GAP, 0, 0))
        for figure in account.key_figures:
            texts = (figure.label, figure.value, figure.note)
            grid.add_row(*map(Text, texts, ("dim", "bold", "dim")))
        parts += [grid, Text()]
    for section in account.sections:
        if section.is_result:
            parts += [*_section(section, width), Text()]
    parts += [_warning(warning, width) for warning in account.warnings]
    return Group(*(parts if account.warnings else parts[:-1]))


def _section(section: Section, width: int) -> Iterator[RenderableType]:
    yield Text(plain_line(section.title), style="bold")
    for paragraph in section.paragraphs:
        yield _prose(paragraph, width)
    for picture in section.pictures:
        if picture.text is not None:
            yield Text()
            yield picture.text(width=width)
    for table in section.tables:
        if table.rows and not table.is_folded:
            yield Text()
            yield Text(plain_line(table.caption), style="italic")
            yield from _records(table, width) if table.is_prose else _blocks(table, width)
    yield from (_warning(warning, width) for warning in section.warnings)


def _prose(sentence: str, width: int, style: str = "") -> Text:
    """A paragraph, all but its first line indented; what stands between backticks in bold."""
    parts = re.split(r"`([^`]+)`", plain_line(sentence))
    text = Text.assemble(*((part, "bold" if at % 2 else "") for at, part in enumerate(parts)))
    text.style = style
    room = min(_WIDEST_PROSE, width) - _INDENT
    lines = text.wrap(Console(width=room), room)
    for line in lines:
        line.rstrip()
    return Text("\n" + " " * _INDENT).join(lines)


def _warning(warning: str, width: int) -> Text:
    return _prose(f"! {warning}", width, style="yellow")


def _records(table: Table, width: int) -> Iterator[RenderableType]:
    """Rows of long texts: one line after the other, each behind its column's name."""
    for row in table.rows:
        grid = Grid.grid(padding=(0, _GAP, 0, 0))
        for name, cell in zip(table.header, row, strict=True):
            grid.add_row(Text(plain_line(name), style="dim"), Text(plain_line(cell)))
        yield Padding(grid, (0, max(0, width - _WIDEST_PROSE), 0, _INDENT))


def _blocks(table: Table, width: int) -> Iterator[RenderableType]:
    """The table's columns in as many grids as the width needs, the first column in each."""
    first, *columns = (
        (plain_line(name), [plain_line(row[at]) for row in table.rows])
        for at, name in enumerate(table.header)
    )
    if table.marked is not None:
        marks = ["→ " if at == table.marked else "  " for at in range(len(table.rows))]
        first = (first[0], [mark + name for mark, name in zip(marks, first[1], strict=True)])
    room = width - _width(*first)
    reserve = max(_SHORTEST_BAR, cell_len(table.bar_header)) + _GAP if table.bars else 0
    groups: list[list[tuple[str, list[str]]]] = [[]]
    left = [room - reserve]
    for column in columns:
        needed = _width(*column) + _GAP
        if needed > left[-1] and groups[-1]:
            groups.append([])
            left.append(room)
        groups[-1].append(column)
        left[-1] -= needed
    if table.bars and left[0] >= 0:
        cells = min(_WIDEST_BAR, left[0] + reserve - _GAP)
        groups[0].append((table.bar_header, draw_bars(table.bars, cells)))
    for number, group in enumerate(groups):
        if number:
            yield Text()
        yield _grid([first, *group], table.marked)


def _width(header: str, cells: Sequence[str]) -> int:
    """Columns that a column of the table needs."""
    words = [cell_len(word) for word in header.split()]
    widest = max([*words, *(cell_len(cell) for cell in cells)], default=0)
    return min(_WIDEST_CELL, max(widest, min(_HEADER_CELL, cell_len(header))))


def _grid(columns: Sequence[tuple[str, Sequence[str]]], marked: int | None) -> Grid:
    grid = Grid(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for header, cells in columns:
        room = _width(header, cells)
        is_short = all(cell_len(cell) <= _WIDEST_CELL for cell in cells)
        grid.add_column(
            Text("\n".join(textwrap.wrap(header, room))),
            justify="right" if header and all(map(_NUMERIC.fullmatch, cells)) else "left",
            no_wrap=is_short,
            overflow="fold",
            min_width=room if is_short else None,
        )
    for at, row in enumerate(zip(*(cells for _, cells in columns), strict=True)):
        grid.add_row(*map(Text, row), style="bold green" if at == marked else "")
    return grid
