"""keel report: one page that tells what a run found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from keel.cli import console
from keel.cli.options import Given, takes
from keel.errors import UsageError
from keel.settings import TrackingSettings

EXAMPLES = """
Examples:

    keel report runs/smollm2

    keel report runs/smollm2 --markdown > summary.md

    keel report runs/mine --roles roles/

    keel report runs/mine --figures paper/figures

    keel report runs/mine --to mlflow --project axes
"""


@takes(TrackingSettings())
def report(
    run: console.Run,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the main numbers as Markdown instead.")
    ] = False,
    roles: Annotated[
        Path | None, typer.Option(help="Folder of the role files, for the roles' kinds.")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write each figure as SVG, PDF and CSV, with its caption, to DIR too.",
        ),
    ] = None,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Write RUN/report.html: one self-contained page, to be opened in any browser."""
    from keel import pipeline
    from keel.prompts import read_roles, role_kinds
    from keel.report import (
        TRACKERS,
        render_markdown,
        report_account,
        send_to_tracker,
        write_figures,
    )
    from keel.store import RunFolder, open_run

    tracking = given.over(TrackingSettings())
    if tracking.tracker is None and given.names(TrackingSettings()):
        raise UsageError(
            "--project is a tracker's, and none is named; add --to mlflow or --to wandb"
        )
    if tracking.tracker is not None:
        TRACKERS.get(tracking.tracker)
    if markdown and (figures or tracking.tracker):
        raise UsageError(
            "--markdown writes no page and no figures; leave it out, or --to and --figures"
        )
    kinds = None if roles is None else role_kinds(read_roles(roles))
    if markdown:
        print(render_markdown(report_account(pipeline.report_inputs(open_run(run), kinds))))
        return
    with console.waiting("drawing"):
        page = pipeline.report(RunFolder(run), kinds)
    drawn: tuple[Path, ...] = ()
    if figures is not None:
        with console.waiting(f"drawing to {figures}"):
            drawn = write_figures(
                report_account(pipeline.report_inputs(open_run(run), kinds)), figures
            )
    sent = None
    if tracking.tracker is not None:
        with console.waiting(f"sending to {tracking.tracker}"):
            tracked = pipeline.tracked_run(open_run(run), page)
            sent = send_to_tracker(tracking.tracker, tracked, tracking.project)
    if json:
        parts: dict[str, Any] = {} if sent is None else {"sent_to": sent}
        parts |= {} if figures is None else {"figures": drawn}
        console.print_json({"report": page, "size_bytes": page.stat().st_size, **parts})
    else:
        size = f"{page.stat().st_size / 1e6:.1f} MB"
        console.stdout.print(f"[b]{escape(str(page))}[/b] ({size})", soft_wrap=True)
        if drawn:
            console.stdout.print(f"{len(drawn)} files in {escape(str(figures))}", soft_wrap=True)
        if sent is not None:
            console.stdout.print(f"{tracking.tracker}: {escape(sent)}", soft_wrap=True)
