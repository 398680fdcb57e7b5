"""The report's numbers and sentences as Markdown, without pictures and long tables."""

from __future__ import annotations

from keel.report.content import Section, Table
from keel.report.inputs import ReportInputs
from keel.report.page import all_sections
from keel.report.sections import key_figures

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\*[]|<>"})


def render_markdown(inputs: ReportInputs) -> str:
    """The main numbers as Markdown, the same text for the same inputs."""
    parts = [f"# {_safe(inputs.title)}", _safe(_subtitle(inputs))]
    parts += [f"> **Warning:** {_safe(warning)}" for warning in inputs.all_warnings]
    if key_figures(inputs):
        rows = tuple((f.label, f.value, f.note) for f in key_figures(inputs))
        parts.append(_table(Table("", ("key figure", "value", ""), rows)))
    parts += [_section(section) for section in all_sections(inputs)]
    return "\n\n".join(parts) + "\n"


def _subtitle(inputs: ReportInputs) -> str:
    revision = f" at {inputs.identity.revision}" if inputs.identity.revision else ""
    date = f", {inputs.date}" if inputs.date else ""
    return f"{inputs.identity.model_id}{revision}{date}"


def _section(section: Section) -> str:
    parts = [f"## {section.title}", *(_safe(paragraph) for paragraph in section.paragraphs)]
    for table in section.tables:
        if not (table.is_prose or table.is_folded):
            parts += [f"**{_safe(table.caption)}**", _table(table)]
    return "\n\n".join(parts)


def _table(table: Table) -> str:
    header = [table.header, tuple("---" for _ in table.header)]
    return "\n".join(f"| {' | '.join(map(_safe, row))} |" for row in [*header, *table.rows])


def _safe(text: str) -> str:
    """The text on one line, its characters without meaning in Markdown."""
    return " ".join(text.split()).translate(_SPECIAL)
