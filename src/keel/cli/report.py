"""keel report: one page that tells what a run found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from keel.cli import console

EXAMPLES = """
Examples:

    keel report runs/smollm2

    keel report runs/smollm2 --markdown > summary.md

    keel report runs/mine --roles roles/
"""


def report(
    run: console.Run,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the main numbers as Markdown instead.")
    ] = False,
    roles: Annotated[
        Path | None, typer.Option(help="Folder of the role files, for the roles' kinds.")
    ] = None,
    json: console.Json = False,
) -> None:
    """Write RUN/report.html: one self-contained page, to be opened in any browser."""
    from keel import pipeline
    from keel.prompts import read_roles, role_kinds
    from keel.report import render_markdown, report_account
    from keel.store import RunFolder, open_run

    kinds = None if roles is None else role_kinds(read_roles(roles))
    if markdown:
        print(render_markdown(report_account(pipeline.report_inputs(open_run(run), kinds))))
        return
    with console.waiting("drawing"):
        page = pipeline.report(RunFolder(run), kinds)
    if json:
        console.print_json({"report": page, "size_bytes": page.stat().st_size})
    else:
        size = f"{page.stat().st_size / 1e6:.1f} MB"
        console.stdout.print(f"[b]{escape(str(page))}[/b] ({size})", soft_wrap=True)
