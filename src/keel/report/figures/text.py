"""Text made safe for Plotly, which reads a subset of HTML in labels and hover boxes."""

from __future__ import annotations

import textwrap

WIDTH = 64
"""Characters per line of a hover box."""
LONGEST = 420
"""Characters of an answer that a hover box shows."""


def plain(text: str) -> str:
    """The text on one line, shown as it is: no tags, no entities."""
    line = " ".join(text.split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def wrapped(text: str) -> str:
    """The beginning of a text, broken into lines for a hover box."""
    line = " ".join(text.split())
    if len(line) > LONGEST:
        line = f"{line[:LONGEST].rstrip()} …"
    return "<br>".join(plain(part) for part in textwrap.wrap(line, WIDTH))


def hover_box(heading: str, *details: str, quote: str = "") -> str:
    """A bold heading, lines of details, and a quoted text beneath."""
    lines = [f"<b>{plain(heading)}</b>", *(plain(detail) for detail in details if detail)]
    if quote:
        lines += ["", wrapped(quote)]
    return "<br>".join(lines)
