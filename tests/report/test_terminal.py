"""A terminal shows the report's own sections: same values, any width, nothing cut."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from keel.report import Account, Section, Table, render_markdown, render_terminal, report_account
from keel.types import Interval


def shown(account: Account, width: int) -> str:
    """As it reaches a pipe: no colour, no terminal."""
    out = io.StringIO()
    Console(file=out, width=width, no_color=True, highlight=False).print(
        render_terminal(account, width=width)
    )
    return out.getvalue()


def table_account(table: Table) -> Account:
    return Account("", "", (), (Section("s", "Section", (), tables=(table,)),))


def words_of(text: str) -> list[str]:
    return text.replace("`", "").split()


def test_every_sentence_of_a_result_is_the_reports(inputs):
    account = report_account(inputs)
    terminal = " ".join(words_of(shown(account, 80)))
    for section in account.sections:
        for paragraph in section.paragraphs:
            assert (" ".join(words_of(paragraph)) in terminal) is section.is_result


def test_every_number_of_a_table_is_the_reports_at_any_width(inputs):
    account = report_account(inputs)
    prices = next(section for section in account.sections if section.id == "prices").tables[0]
    for width in (50, 80, 200):
        lines = shown(table_account(prices), width).splitlines()
        for row in prices.rows:
            found = " ".join(line for line in lines if row[0] in line)
            assert [cell for cell in row if " ".join(cell.split()) not in found] == []


@pytest.mark.parametrize("width", [50, 80, 120])
def test_every_line_fits_the_terminal(inputs, width):
    assert all(len(line) <= width for line in shown(report_account(inputs), width).splitlines())


def test_a_table_too_wide_is_printed_in_blocks_with_the_first_column_in_each():
    header = ("arm", *(f"column {n}" for n in range(8)))
    rows = (("first", *(f"{n}.123456789" for n in range(8))),)
    text = shown(table_account(Table("wide", header, rows)), 40)
    assert text.count("first") == 4  # 5 + 2 + 11 + 2 + 11 fit 40 columns, one more does not
    assert all(cell in text for cell in rows[0])


def test_the_marked_row_is_marked_without_colour(inputs):
    text = shown(report_account(inputs), 100)
    marked = [line for line in text.splitlines() if "→" in line]
    assert marked
    assert all(line.startswith("→ layers_18:23-p75") for line in marked)


def test_bars_give_way_where_numbers_need_the_room():
    table = Table("t", ("name", "value"), (("a" * 20, "0.5"), ("b", "1.0")), bars=(0.5, 1.0))
    assert "██" in shown(table_account(table), 80)
    assert "█" not in shown(table_account(table), 30)


def test_an_interval_is_drawn_as_a_line_on_the_scale_of_shares():
    rows = (("a", "x"), ("b", "y"))
    bars = (Interval(0.5, 0.25, 0.75), None)
    line = next(
        line
        for line in shown(table_account(Table("t", ("n", "v"), rows, bars=bars)), 80).splitlines()
        if line.startswith("a")
    )
    drawn = line.split()[-1]
    assert len(drawn) == 24
    assert (drawn.index("├"), drawn.index("●"), drawn.index("┤")) == (6, 12, 17)  # of 0 to 23


def test_numbers_stand_right_and_words_left():
    table = Table("t", ("name", "count", "word"), (("a", "1", "x"), ("b", "1,000", "long word")))
    lines = shown(table_account(table), 80).splitlines()
    assert [line.rstrip() for line in lines[-2:]] == ["a         1  x", "b     1,000  long word"]


def test_warnings_of_the_run_and_of_a_section_are_shown(inputs):
    account = report_account(inputs)
    shown_section = next(section for section in account.sections if section.is_result)
    section = replace(shown_section, warnings=("look twice",))
    text = shown(replace(account, sections=(section,)), 100)
    assert "! look twice" in text
    assert "! the role mime was dropped: 3 rollouts, minimum 10" in text


def test_folded_tables_and_what_is_no_result_are_left_out(inputs):
    text = shown(report_account(inputs), 100)
    assert "All layers as a table" not in text
    assert "How to cite" not in text
    assert "How to cite" in render_markdown(report_account(inputs))
    empty = shown(report_account(replace(inputs, persona_map=None)), 100)
    assert "Not extracted yet" not in empty


def test_conversations_are_drawn_with_their_needles_and_the_farthest_answers_quoted(inputs):
    text = shown(report_account(inputs), 100)
    assert "╋ floor" in text
    assert "▼ unusually low" in text
    assert "Where the two arms lie farthest apart" in text


def test_a_models_text_cannot_steer_the_terminal():
    evil = "red \x1b[31malert\x07 [bold]not bold[/bold]\u202e"
    table = Table(evil, ("a", "b"), ((evil, evil),))
    account = Account("", "", (), (Section("s", evil, (evil,), tables=(table,)),), warnings=(evil,))
    text = shown(account, 200)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "[bold]not bold[/bold]" in text
