"""keel drift calibrate and watch: an alarm for conversations that leave the Assistant."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from keel.cli import console, results
from keel.cli.options import Given, takes
from keel.cli.transcripts import SkipUnreadable, conversations_of
from keel.settings import AlarmSettings, OpeningSettings, WatchSettings

if TYPE_CHECKING:
    from keel.alarm import Alarm, TurnVerdict
    from keel.pipeline import LayerChoice

CALIBRATING = """
Examples:

    keel drift calibrate runs/smollm2 --chats logs.jsonl

    keel drift calibrate runs/smollm2 --simulate 100 --rate 0.05
"""
WATCHING = """
Examples:

    keel drift watch runs/smollm2 logs.jsonl --json

    tail -f turns.jsonl | keel drift watch runs/smollm2 -
"""
ALARMED = 4
"""Exit status where a conversation raised an alarm."""


@takes(AlarmSettings(), OpeningSettings())
def calibrate(
    run: console.Run,
    chats: Annotated[
        list[Path] | None,
        typer.Option("--chats", metavar="FILE", help="Logs of usual traffic; may be repeated."),
    ] = None,
    skip_unreadable: SkipUnreadable = False,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Calibrate an alarm on conversations of the model as it usually talks.

    How their levels fall turn by turn, and how they vary, decides when a fall is an alarm. The
    alarm is tried on conversations that it was not fitted to. Interrupted, it goes on where it
    stopped when called again.
    """
    from keel import pipeline
    from keel.errors import UsageError
    from keel.store import RunFolder, open_run

    settings = given.over(AlarmSettings())
    if not chats and not settings.simulate:
        raise UsageError("nothing to calibrate on; give --chats FILE, or --simulate 100")
    conversations = (
        conversations_of(chats, skip_unreadable=skip_unreadable) if chats is not None else []
    )
    opened = open_run(run)
    choice = pipeline.alarm_layer(opened, settings.layer)
    pipeline.check_calibration(opened, conversations, settings)
    engine = console.open_model(opened.identity.model_id, given.over(OpeningSettings()))
    with console.progress() as progress:
        alarm = pipeline.calibrate_alarm(
            engine, RunFolder(run), conversations, settings, on_progress=progress
        )
    if json:
        facts = console.plain(alarm)
        facts.pop("direction")
        console.print_json({"run": run, **facts, "layer_choice": choice})
        return
    for line in alarm_lines(alarm, choice):
        console.stdout.print(line, markup=False, soft_wrap=True)
    results.print_next(f"Watch with it: [b]keel drift watch {escape(str(run))} LOGS[/b]")


def alarm_lines(alarm: Alarm, choice: LayerChoice) -> Iterator[str]:
    """What an alarm was calibrated on and what to expect of it."""
    fit = alarm.fit
    assert fit is not None, "a calibrated alarm says on what"
    yield choice.sentence
    yield (
        f"{fit.conversations} conversations ({fit.source}), {fit.turns} turns, {fit.tokens} tokens."
    )
    levels = " ".join(f"{level:+.2f}" for level in alarm.expected)
    yield f"Expected level by turn, gaps: {levels}"
    yield (
        f"Standard deviations, gaps: {alarm.between:.2f} between conversations, {alarm.within:.2f} "
        f"within, {alarm.token:.2f} / √tokens by the length of an answer."
    )
    held = "any length" if alarm.horizon is None else f"at most {alarm.horizon} turns"
    yield (
        f"False alarms: {alarm.rate:.2%} of conversations of {held}, by design; "
        f"{fit.held_out_alarms} of {fit.held_out} held-out conversations"
        + (
            f" (95 %: {fit.held_out_rate.low:.1%} to {fit.held_out_rate.high:.1%})."
            if fit.held_out_rate is not None
            else "."
        )
    )
    if fit.detection is not None:
        delay = "" if fit.delay_turns is None else f", {fit.delay_turns:.1f} turns later on average"
        yield (
            f"Expected: a fall by {alarm.drop:g} gaps at the 6th of 12 turns is detected in "
            f"{fit.detection:.0%} of conversations{delay}."
        )
    for warning in fit.warnings:
        yield f"Note: {warning}."


@takes(WatchSettings(), OpeningSettings())
def watch(
    run: console.Run,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Transcripts, or lines of `{conversation, mean, tokens}`; - reads such lines from "
            "stdin as they come.",
        ),
    ],
    skip_unreadable: SkipUnreadable = False,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Watch conversations with the run's alarm. Exit status 4 where any raised it.

    Transcripts are read by the model; lines that hold a turn's mean projection at the alarm's
    layer and its tokens need none, and are answered line by line.
    """
    from keel import pipeline
    from keel.errors import UsageError
    from keel.store import open_run

    settings = given.over(WatchSettings())
    opened = open_run(run)
    alarm = opened.alarm
    monitor = alarm.monitor(rate=settings.rate)
    if "-" in files or all(_holds_means(Path(name)) for name in files):
        if "-" in files and len(files) > 1:
            raise UsageError("- stands for stdin and comes alone; give files in another call")
        lines = sys.stdin if files == ["-"] else _lines_of(files)
        is_alarmed = False
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name, verdict = _turn_of(monitor, line, number)
            is_alarmed |= verdict.state == "alarm"
            _print_turn(name, verdict, json)
        raise typer.Exit(ALARMED if is_alarmed else 0)
    conversations = conversations_of([Path(n) for n in files], skip_unreadable=skip_unreadable)
    engine = console.open_model(opened.identity.model_id, given.over(OpeningSettings()))
    with console.progress() as progress:
        watched = list(
            pipeline.watch(engine, opened, conversations, settings, on_progress=progress)
        )
    if json:
        console.print_json([{**console.plain(each), "state": each.state} for each in watched])
    else:
        for each in watched:
            words = (
                "unknown  another system prompt than the calibrated"
                if each.other_system
                else verdict_words(each.verdicts[-1])
            )
            console.stdout.print(f"{each.id}  {words}", markup=False, soft_wrap=True)
    raise typer.Exit(ALARMED if any(each.state == "alarm" for each in watched) else 0)


def verdict_words(verdict: TurnVerdict) -> str:
    """A verdict on a line: state, since when, level beside what is expected, evidence."""
    since = (
        f" since turn {verdict.since + 1}"
        if verdict.since is not None and verdict.state in ("alarm", "watch")
        else ""
    )
    level = "no tokens" if verdict.gaps is None else f"{verdict.gaps:+.2f} gaps"
    return (
        f"{verdict.state}{since}  turn {verdict.turn + 1}: {level}, expected "
        f"{verdict.expected_gaps:+.2f}; evidence {verdict.evidence:.3g} of {verdict.threshold:.3g}"
    )


def _print_turn(name: str, verdict: TurnVerdict, json: bool) -> None:
    if json:
        row = {"conversation": name, **console.plain(verdict)}
        print(jsonlib.dumps(row, ensure_ascii=False), flush=True)
    else:
        print(f"{name}  {verdict_words(verdict)}", flush=True)


def _holds_means(path: Path) -> bool:
    """Whether a file's first line is a turn's mean rather than part of a transcript."""
    try:
        with path.open(encoding="utf-8") as lines:
            row = jsonlib.loads(lines.readline())
    except (OSError, ValueError):
        return False
    return isinstance(row, dict) and {"conversation", "mean"} <= row.keys()


def _lines_of(files: list[str]) -> Iterator[str]:
    """The lines of all files, one file after the other."""
    for name in files:
        with Path(name).open(encoding="utf-8") as lines:
            yield from lines


def _turn_of(monitor: Any, line: str, number: int) -> tuple[str, TurnVerdict]:
    """A line's conversation, and the verdict of its turn. Raises UsageError for another line."""
    from keel.errors import UsageError

    try:
        row = jsonlib.loads(line)
        name, mean, tokens = str(row["conversation"]), float(row["mean"]), int(row["tokens"])
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"line {number} is {line.strip()[:60]!r}, expected "
            '{"conversation": "c1", "mean": 1.5, "tokens": 40}: a turn\'s mean projection at the '
            f"alarm's layer ({error}); transcripts are given as files"
        ) from error
    return name, monitor.turn(name, mean=mean, tokens=tokens)
