"""keel drift: conversations along the axis, turn by turn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from keel.cli import console, drift_alarm, drift_study, results
from keel.cli.axes import run_of
from keel.cli.help import PlainCommand, running_by_default
from keel.cli.options import Given, takes
from keel.cli.transcripts import Files, SkipUnreadable, check_run_first, conversations_of
from keel.settings import AxisSource, DriftSettings, OpeningSettings

if TYPE_CHECKING:
    from keel.engines import Engine
    from keel.store import RunFolder
    from keel.types import Conversation

EXAMPLES = """
Examples:

    keel drift runs/smollm2 talk.json

    keel drift runs/smollm2 logs.jsonl --skip-unreadable --json

    keel drift runs/smollm2 batch_requests.jsonl batch_output.jsonl

    keel drift runs/smollm2 talk.json --replay

    keel drift Qwen/Qwen3-32B talk.json --axis qwen-3-32b
"""

app = typer.Typer(
    cls=running_by_default("read"),
    help="See how far conversations drift from the Assistant, turn by turn.\n\n"
    "`keel drift RUN FILE...` is short for `keel drift read RUN FILE...`, whose help lists the "
    "options.",
    rich_markup_mode=None,
)


@app.command("read", cls=PlainCommand, epilog=EXAMPLES)
@takes(DriftSettings(), AxisSource(), OpeningSettings())
def drift(
    run: console.Run,
    files: Files,
    replay: Annotated[
        bool, typer.Option("--replay", help="Answer the user's turns anew, uncapped and capped.")
    ] = False,
    skip_unreadable: SkipUnreadable = False,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """See how far conversations drift from the Assistant, turn by turn."""
    from keel import pipeline
    from keel.errors import UsageError
    from keel.store import RunFolder, open_run

    check_run_first("keel drift", run, files)
    settings = given.over(DriftSettings())
    if replay and settings.spans != "answer":
        raise UsageError(
            f"--spans {settings.spans} reads what given turns thought, and a replay answers them "
            "anew; leave out --replay or --spans"
        )
    conversations = conversations_of(
        files, skip_unreadable=skip_unreadable, are_answered=not replay
    )
    run = run_of(run, given, settings.setting)
    opened, folder = open_run(run), RunFolder(run)
    pipeline.check_drift(opened, conversations, settings, is_replayed=replay)
    folder.check_free()
    engine = console.open_model(opened.identity.model_id, given.over(OpeningSettings()))
    if replay:
        _replay(engine, folder, conversations, settings, json)
        return
    with console.progress() as progress:
        readings = pipeline.drift(engine, folder, conversations, settings, on_progress=progress)
    watched = []
    if opened.has_alarm and settings.spans != "thinking":
        # At the alarm's own layer, below the floors.
        watched = list(pipeline.watch(engine, opened, conversations))
    if json:
        verdicts = [each.verdicts for each in watched]
        verdicts += [()] * (len(readings) - len(verdicts))
        console.print_json(
            [
                {**console.plain(reading), "alarm": alarm}
                for reading, alarm in zip(readings, verdicts, strict=True)
            ]
            if watched
            else readings
        )
        return
    _print_paths(folder, drift=tuple(readings))
    for each in watched:
        for verdict in each.verdicts:
            words = drift_alarm.verdict_words(verdict)
            console.stdout.print(f"{each.id}  {words}", markup=False, soft_wrap=True)


REPLAYING = """
Examples:

    keel drift replay runs/smollm2 transcript.json --draws 5

    keel drift replay runs/smollm2 long.json --max-new-tokens 400 --json
"""
_DRAWN = replace(DriftSettings(), draws=5)


@app.command("replay", cls=PlainCommand, epilog=REPLAYING)
@takes(_DRAWN, OpeningSettings())
def replay_anew(
    run: console.Run,
    files: Files,
    skip_unreadable: SkipUnreadable = False,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Answer the user's turns of given conversations anew, uncapped and capped, several times.

    Each turn gets its mean over the draws with an interval, each conversation a page of its own in
    RUN/cases. A conversation may be as long as the model's context; where it does not fit, its
    replay ends, and what was answered is kept. Interrupted, it goes on behind the last turn when
    called again, and answers nothing twice.
    """
    from keel import pipeline
    from keel.errors import UsageError
    from keel.store import RunFolder, open_run

    check_run_first("keel drift replay", run, files)
    settings = given.over(_DRAWN)
    if settings.spans != "answer":
        raise UsageError(
            f"--spans {settings.spans} reads what given turns thought, and a replay answers them "
            "anew; leave out --spans"
        )
    conversations = conversations_of(files, skip_unreadable=skip_unreadable, are_answered=False)
    opened, folder = open_run(run), RunFolder(run)
    pipeline.check_drift(opened, conversations, settings, is_replayed=True)
    folder.check_free()
    engine = console.open_model(opened.identity.model_id, given.over(OpeningSettings()))
    _replay(engine, folder, conversations, settings, json)


def _replay(
    engine: Engine,
    folder: RunFolder,
    conversations: list[Conversation],
    settings: DriftSettings,
    json: bool,
) -> None:
    """Answer conversations anew, and print what came of it, with the path of each one's page."""
    from keel import pipeline

    replays, pages = [], []
    with console.progress() as progress:
        for conversation in conversations:

            def show(stage: str, done: int, total: int, name: str = conversation.id) -> None:
                progress(f"{name}: {stage}", done, total)

            replays.append(
                pipeline.replay_conversation(
                    engine, folder, conversation, settings, on_progress=show
                )
            )
            pages.append(pipeline.case_page(folder, replays[-1]))
    if json:
        console.print_json(
            [
                {**console.plain(replayed), "lowered": replayed.lowered, "page": page}
                for replayed, page in zip(replays, pages, strict=True)
            ]
        )
        return
    _print_paths(folder, replays=tuple(replays))
    for page in pages:
        console.stdout.print(escape(str(page)), soft_wrap=True)


def _print_paths(folder: RunFolder, **paths: Any) -> None:
    results.print_results(axis=folder.read().axis, **paths)
    results.print_next(f"In HTML: [b]keel report {escape(str(folder.path))}[/b]")


app.command("study", cls=PlainCommand, epilog=drift_study.EXAMPLES)(drift_study.study)
app.command("calibrate", cls=PlainCommand, epilog=drift_alarm.CALIBRATING)(drift_alarm.calibrate)
app.command("watch", cls=PlainCommand, epilog=drift_alarm.WATCHING)(drift_alarm.watch)
