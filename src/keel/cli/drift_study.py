"""keel drift study: simulated conversations in several domains, and what moves the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from keel.cli import console, results
from keel.cli.options import Given, takes
from keel.cli.transcripts import SkipUnreadable, transcripts_of
from keel.settings import DriftStudySettings, OpeningSettings, Scale

EXAMPLES = """
Examples:

    keel drift study runs/smollm2 --dry-run

    keel drift study runs/smollm2 --arms none,capped

    keel drift study runs/smollm2 --scale small --domains therapy,coding --name two

    keel drift study runs/smollm2 --harm --judge openai:gpt-4.1-mini

    keel drift study runs/smollm2 --transcripts support.jsonl --transcripts sales.jsonl

    keel drift study runs/smollm2 --transcripts support.jsonl --harm --arms none,capped
"""
_BY_SCALE = {scale: DriftStudySettings.at_scale(scale) for scale in ("smoke", "small", "paper")}


@takes(_BY_SCALE, OpeningSettings())
def study(
    run: console.Run,
    scale: Annotated[
        Scale, typer.Option(help="One dial: minutes, hours, or the paper in full.")
    ] = "smoke",
    transcripts: Annotated[
        list[Path] | None,
        typer.Option(
            help="Conversations that exist, in place of simulated ones. Each is of its own "
            "`domain`, else of its file's name; `neutral` are plain tasks. May be repeated.",
            metavar="FILE",
        ),
    ] = None,
    skip_unreadable: SkipUnreadable = False,
    overwrite: console.Overwrite = False,
    dry_run: console.DryRun = False,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Study how far simulated users move the model, in four domains and about plain tasks.

    What each subject moves is counted beyond what the length of a conversation does.

    Interrupted, it goes on where it stopped when called again. Arms can be added later. A
    conversation ends where the model's context has no room for a full answer. A budget
    (--max-usd, --max-requests) is that of auditor, judge and embedder together.
    """
    from keel import pipeline
    from keel.errors import UsageError
    from keel.store import RunFolder, open_run

    settings = given.over(DriftStudySettings.at_scale(scale))
    if not settings.harm and (idle := [n for n in ("--judge", "--judge-url") if n in given.values]):
        raise UsageError(
            f"nothing is judged without --harm; add it, or leave out {', '.join(idle)}"
        )
    if transcripts:
        _check_simulating(settings, DriftStudySettings.at_scale(scale))
        pipeline.check_given(settings)
    elif skip_unreadable:
        raise UsageError("--skip-unreadable is of --transcripts; give these, or leave it out")
    opened = open_run(run)
    read = transcripts_of(transcripts or (), skip_unreadable=skip_unreadable)
    talks = [*zip(read.domains, read.conversations, strict=True)]
    pipeline.check_study(opened, settings)
    if dry_run and transcripts:
        console.print_price(pipeline.price_transcripts(talks, settings), json)
        return
    if dry_run:
        console.print_price(pipeline.price_study(settings), json)
        return
    RunFolder(run).check_free()
    engine = console.open_model(opened.identity.model_id, given.over(OpeningSettings()))
    with console.progress() as progress:
        how: dict[str, Any] = {
            "overwrite": overwrite,
            "command": f"keel drift study {run} with the same options",
            "on_progress": progress,
        }
        if transcripts:
            made = pipeline.study_transcripts(engine, RunFolder(run), talks, settings, **how)
        else:
            made = pipeline.study_drift(engine, RunFolder(run), settings, **how)
    if json:
        console.print_json({"run": run, **console.plain(made)})
        return
    results.print_results(studies={made.name: made})
    results.print_next(f"In HTML: [b]keel report {escape(str(run))}[/b]")


def _check_simulating(settings: DriftStudySettings, usual: DriftStudySettings) -> None:
    """Raise UsageError for an option that says how users are simulated, where none are."""
    from keel.errors import UsageError

    for name in ("domains", "people", "topics", "turns", "is_long", "system", "auditor"):
        if getattr(settings, name) != getattr(usual, name):
            option = "--long" if name == "is_long" else f"--{name}"
            raise UsageError(
                f"{option} is {getattr(settings, name)!r}, but --transcripts simulates nobody: "
                f"their conversations are read as they are; leave out {option}"
            )
