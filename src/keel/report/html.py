"""One self-contained HTML page: nothing is fetched when it is opened."""

from __future__ import annotations

import json
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

import keel
from keel.report.content import Account, Section

_TEMPLATES = "template"


def render_html(account: Account) -> str:
    """Renders an account as HTML, the same text for the same account.

    Plotly is embedded once. All texts of users and models are escaped, and the page's own content
    policy forbids it to load anything.
    """
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            account=account,
            figures=_draw_figures(account.sections),
            plotly=Markup(get_plotlyjs()),
            version=keel.__version__,
        )
    )
    # Half a surrogate pair, which byte-level tokenizers can leave behind, has no UTF-8 form.
    return page.encode("utf-8", "replace").decode("utf-8")


def _draw_figures(sections: tuple[Section, ...]) -> dict[str, Any]:
    """Each picture's id with what Plotly draws; NaN has become null."""
    pictures = [picture for section in sections for picture in section.pictures]
    return {picture.id: json.loads(picture.draw().to_json()) for picture in pictures}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("keel.report", _TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}
    return environment


def _prose(sentence: str) -> Markup:
    """Escaped text, with what stands between backticks as code."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(sentence)))
    return Markup(marked)
