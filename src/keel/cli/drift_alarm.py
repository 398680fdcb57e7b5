"""keel drift calibrate and watch: an alarm for conversations that leave the Assistant."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from keel.cli import console, results
from keel.cli.options import Given, takes
from keel.cli.transcripts import SkipUnreadable, check_run_first, conversations_of
from keel.settings import AlarmSettings, OpeningSettings, WatchSettings
from keel.words import percent, signed

if TYPE_CHECKING:
    from keel.alarm import Alarm, TurnVerdict
    from keel.pipeline import LayerChoice
    from keel.store import Run, WatchState

CALIBRATING = """
Examples:

    keel drift calibrate runs/smollm2 --chats logs.jsonl

    keel drift calibrate runs/smollm2 --simulate 100 --rate 0.05
"""
WATCHING = """
Examples:

    keel drift watch runs/smollm2 logs.jsonl --json

    tail -f turns.jsonl | keel drift watch runs/smollm2 -

    keel drift watch runs/smollm2 turns.jsonl --state turns.state
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
    levels = " ".join(signed(level) for level in alarm.expected)
    yield f"Expected level by turn, gaps: {levels}"
    yield (
        f"Standard deviations, gaps: {alarm.between:.2f} between conversations, {alarm.within:.2f} "
        f"within, {alarm.token:.2f} / √tokens by the length of an answer."
    )
    held = "any length" if alarm.horizon is None else f"at most {alarm.horizon} turns"
    yield f"False alarms: {percent(alarm.rate, 2)} of conversations of {held}, by design."
    if fit.detection is not None:
        delay = "" if fit.delay_turns is None else f", {fit.delay_turns:.1f} turns later on average"
        yield (
            f"Expected: a fall by {alarm.drop:g} gaps at the 6th of 12 turns is detected in "
            f"{percent(fit.detection)} of conversations{delay}."
        )
    if fit.checks:
        yield "Checks, on conversations that the alarm was not fitted to where it says held-out:"
    for check in fit.checks:
        verdict = "ok" if check.holds else "does not hold"
        yield f"  {check.name}: {verdict}; {check.sentence}."
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
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="FILE",
            help="Keep where each conversation stands in this file, turn by turn, and go on from "
            "it: of lines of means, those counted before are not counted again.",
        ),
    ] = None,
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

    check_run_first("keel drift watch", run, files)
    settings = given.over(WatchSettings())
    opened = open_run(run)
    opened.alarm.threshold(settings.rate)
    if "-" in files or all(_holds_means(Path(name)) for name in files):
        if "-" in files and len(files) > 1:
            raise UsageError("- stands for stdin and comes alone; give files in another call")
        watched_lines = WatchedLines(opened, settings.rate, state, json=json)
        for name in files:
            watched_lines.read(name)
        raise typer.Exit(ALARMED if watched_lines.is_alarmed else 0)
    if state is not None:
        raise UsageError(
            "--state keeps where lines of means stand, and these files hold whole conversations, "
            "which are read from their beginning; leave out --state"
        )
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


class WatchedLines:
    """Lines of means as they come, each answered; where conversations stand may be kept."""

    def __init__(self, run: Run, rate: float | None, state: Path | None, *, json: bool) -> None:
        from keel.store import WatchState

        self.monitor = run.alarm.monitor(rate=rate)
        self.json = json
        self.is_alarmed = False
        """Whether a turn that was answered stands under an alarm."""
        self.state: WatchState | None = None
        if state is not None:
            chance = run.alarm.rate if rate is None else rate
            self.state = WatchState(state, alarm_sha256=run.alarm_sha256, rate=chance)
            self.monitor.restore(self.state.states())

    def read(self, name: str) -> None:
        """Answer every line of a file, or of stdin; of a file, those that are new."""
        if name == "-":
            for number, line in enumerate(sys.stdin, 1):
                self._answer(line, number, None)
            return
        with Path(name).open(encoding="utf-8") as lines:
            first, counted = "", 0
            for number, line in enumerate(lines, 1):
                if number == 1:
                    first = line.strip()
                    counted = 0 if self.state is None else self.state.lines_read(first)
                # A last line that is torn is still being written; the next call answers it.
                is_torn = self.state is not None and not (line.endswith("\n") or _is_json(line))
                if number > counted and not is_torn:
                    self._answer(line, number, first)

    def _answer(self, line: str, number: int, first: str | None) -> None:
        if not line.strip():
            return
        from keel.store import WatchState

        name, mean, tokens = _turn_of(line, number)
        key = WatchState.key(name)
        verdict = self.monitor.turn(key, mean=mean, tokens=tokens)
        if self.state is not None:
            self.state.keep(key, self.monitor.state_of(key), first_line=first, lines=number)
        self.is_alarmed |= verdict.state == "alarm"
        _print_turn(name, verdict, self.json)


def _is_json(line: str) -> bool:
    try:
        jsonlib.loads(line)
    except ValueError:
        return False
    return True


def verdict_words(verdict: TurnVerdict) -> str:
    """A verdict on a line: state, since when, level beside what is expected, evidence."""
    since = (
        f" since turn {verdict.since + 1}"
        if verdict.since is not None and verdict.state in ("alarm", "watch")
        else ""
    )
    level = "no tokens" if verdict.gaps is None else f"{signed(verdict.gaps)} gaps"
    return (
        f"{verdict.state}{since}  turn {verdict.turn + 1}: {level}, expected "
        f"{signed(verdict.expected_gaps)}; evidence {verdict.evidence:.3g} of "
        f"{verdict.threshold:.3g}"
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


def _turn_of(line: str, number: int) -> tuple[str, float, int]:
    """A line's conversation, mean and tokens. Raises UsageError for another line."""
    from keel.errors import UsageError

    try:
        row = jsonlib.loads(line)
        return str(row["conversation"]), float(row["mean"]), int(row["tokens"])
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"line {number} is {line.strip()[:60]!r}, expected "
            '{"conversation": "c1", "mean": 1.5, "tokens": 40}: a turn\'s mean projection at the '
            f"alarm's layer ({error}); transcripts are given as files"
        ) from error
