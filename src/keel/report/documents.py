"""Renders an account as a document: one self-contained HTML page, or Markdown without pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import keel
from keel.report.content import Account, Table
from keel.report.figures.theme import DARK

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\*[]|<>"})


def render_html(account: Account) -> str:
    """Renders an account as HTML, the same text for the same account.

    Nothing is fetched when the page is opened: Plotly's bundle of lines and bars is embedded once.
    All texts of users and models are escaped, and the page's own content policy forbids it to load
    anything.
    """
    environment = Environment(
        loader=PackageLoader("keel.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    environment.globals["new_linker"] = lambda: _linker(account)
    environment.globals["anchor"] = _anchor
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}
    pictures = [picture for section in account.sections for picture in section.pictures]
    page = environment.get_template("page.html.j2").render(
        account=account,
        # Plotly writes NaN as null.
        figures={picture.id: json.loads(picture.draw().to_json()) for picture in pictures},
        numbers={picture.id: number for number, picture in enumerate(pictures, 1)},
        colours=DARK,
        plotly=Markup(
            (files("keel.report") / "template" / "plotly-basic.min.js").read_text("utf-8")
        ),
        version=keel.__version__,
    )
    # Half a surrogate pair, which byte-level tokenizers can leave behind, has no UTF-8 form.
    return page.encode("utf-8", "replace").decode("utf-8")


def _prose(sentence: str) -> Markup:
    """Escaped text, with what stands between backticks as code, and papers as links."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(sentence)))
    return Markup(
        re.sub(r"arXiv:(\d{4}\.\d{5})", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', text)
    )


def _linker(account: Account) -> Callable[[str], Markup]:
    """Prose whose words of the glossary are links to it, each where it is first used."""
    left = dict(account.glossary)
    words = "|".join(re.escape(word) for word in sorted(left, key=len, reverse=True))
    pattern = re.compile(rf"(<[^>]*>.*?</[^>]*>|<[^>]*>)|\b({words})(s?)\b")

    def link(match: re.Match[str]) -> str:
        tag, word, plural = match.groups()
        if tag or word not in left:
            return match[0]
        meaning = escape(left.pop(word))
        return f'<a class="word" href="#{_anchor(word)}" title="{meaning}">{word}{plural}</a>'

    return lambda sentence: Markup(
        pattern.sub(link, _prose(sentence)) if left else _prose(sentence)
    )


def _anchor(word: str) -> str:
    """The id of a word's entry in the glossary."""
    return "word-" + re.sub(r"\W+", "-", word.lower())


def render_markdown(account: Account) -> str:
    """Renders an account as Markdown, without pictures and long tables.

    The text is the same for the same account.
    """
    head = " · ".join([*account.facts, *([account.date] if account.date else [])])
    parts = [f"# {_safe(account.title)}", _safe(head)]
    parts += [_safe(sentence) for sentence in account.lead]
    parts += [_warning(warning) for warning in account.warnings]
    if account.key_figures:
        rows = tuple((f.label, f.value, f.note) for f in account.key_figures)
        parts.append(_table(Table("", ("key figure", "value", ""), rows)))
    for section in account.sections:
        parts += [f"## {section.title}", *map(_safe, section.paragraphs)]
        parts += [_warning(warning) for warning in section.warnings]
        for table in section.tables:
            if not (table.is_prose or table.is_folded):
                parts += [f"**{_safe(table.caption)}**", _table(table)]
    if account.glossary:
        parts += ["## Words", _table(Table("", ("word", "meaning"), account.glossary))]
    return "\n\n".join(parts) + "\n"


def _warning(warning: str) -> str:
    return f"> **Warning:** {_safe(warning)}"


def _table(table: Table) -> str:
    header = [table.header, tuple("---" for _ in table.header)]
    return "\n".join(f"| {' | '.join(map(_safe, row))} |" for row in [*header, *table.rows])


def _safe(text: str) -> str:
    """The text on one line, its characters without meaning in Markdown."""
    return " ".join(text.split()).translate(_SPECIAL)
