"""Text made safe for hover boxes."""

from __future__ import annotations

from keel.report.figures.theme import (
    HOVER_COLUMNS,
    LONGEST_QUOTE,
    hover_box,
    plain,
    wrapped,
)


def test_plain_text_holds_no_tag_and_no_entity() -> None:
    assert plain("<i>a</i> &lt;\n b") == "&lt;i&gt;a&lt;/i&gt; &amp;lt; b"


def test_a_long_answer_is_cut_and_wrapped() -> None:
    lines = wrapped("word " * 200).split("<br>")
    assert all(len(line) <= HOVER_COLUMNS for line in lines)
    assert sum(len(line) + 1 for line in lines) <= LONGEST_QUOTE + len(" …") + 1
    assert lines[-1].endswith("…")


def test_an_entity_is_never_cut_in_two_by_the_wrapping() -> None:
    # Escaping comes after wrapping; the other way round, `&am` and `p;` could part.
    assert wrapped("&" * (HOVER_COLUMNS + 1)) == "&amp;" * HOVER_COLUMNS + "<br>&amp;"


def test_a_hover_box_without_a_quote_has_no_blank_lines() -> None:
    assert hover_box("ghost", "mythical", "") == "<b>ghost</b><br>mythical"
