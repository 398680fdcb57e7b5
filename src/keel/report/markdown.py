"""The report's numbers and sentences as Markdown, without pictures and long tables."""

from __future__ import annotations

from keel.report.content import Account, Section, Table

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\*[]|<>"})


def render_markdown(account: Account) -> str:
    """Renders an account as Markdown, the same text for the same account."""
    head = " · ".join([*account.facts, *([account.date] if account.date else [])])
    parts = [f"# {_safe(account.title)}", _safe(head)]
    parts += [_warning(warning) for warning in account.warnings]
    if account.key_figures:
        rows = tuple((f.label, f.value, f.note) for f in account.key_figures)
        parts.append(_table(Table("", ("key figure", "value", ""), rows)))
    parts += [_section(section) for section in account.sections]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> str:
    parts = [f"## {section.title}", *(_safe(paragraph) for paragraph in section.paragraphs)]
    parts += [_warning(warning) for warning in section.warnings]
    for table in section.tables:
        if not (table.is_prose or table.is_folded):
            parts += [f"**{_safe(table.caption)}**", _table(table)]
    return "\n\n".join(parts)


def _warning(warning: str) -> str:
    return f"> **Warning:** {_safe(warning)}"


def _table(table: Table) -> str:
    header = [table.header, tuple("---" for _ in table.header)]
    return "\n".join(f"| {' | '.join(map(_safe, row))} |" for row in [*header, *table.rows])


def _safe(text: str) -> str:
    """The text on one line, its characters without meaning in Markdown."""
    return " ".join(text.split()).translate(_SPECIAL)
