"""keel drift study: simulated conversations in several domains, and what moves the model."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from keel.cli import console, results
from keel.cli.options import Given, takes
from keel.settings import DriftStudySettings, OpeningSettings, Scale

EXAMPLES = """
Examples:

    keel drift study runs/smollm2 --dry-run

    keel drift study runs/smollm2 --arms none,capped

    keel drift study runs/smollm2 --scale small --domains therapy,coding --name two
"""
_BY_SCALE = {scale: DriftStudySettings.at_scale(scale) for scale in ("smoke", "small", "paper")}


@takes(_BY_SCALE, OpeningSettings())
def study(
    run: console.Run,
    scale: Annotated[
        Scale, typer.Option(help="One dial: minutes, hours, or the paper in full.")
    ] = "smoke",
    overwrite: console.Overwrite = False,
    dry_run: console.DryRun = False,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Let simulated users talk with the model in four domains and about plain tasks, and see how
    far each subject moves it beyond what the length of a conversation does.

    Interrupted, it goes on where it stopped when called again. Arms can be added later.
    """
    from keel import pipeline
    from keel.store import RunFolder, open_run

    settings = given.over(DriftStudySettings.at_scale(scale))
    opened = open_run(run)
    pipeline.check_study(opened, settings)
    if dry_run:
        console.print_price(pipeline.price_study(settings), json)
        return
    engine = console.open_model(opened.identity.model_id, given.over(OpeningSettings()))
    with console.progress() as progress:
        made = pipeline.study_drift(
            engine,
            RunFolder(run),
            settings,
            overwrite=overwrite,
            command=f"keel drift study {run} with the same options",
            on_progress=progress,
        )
    if json:
        console.print_json({"run": run, **console.plain(made)})
        return
    results.print_results(studies={made.name: made})
    results.print_next(f"In HTML: [b]keel report {escape(str(run))}[/b]")
