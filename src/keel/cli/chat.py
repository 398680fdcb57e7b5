"""keel chat: talk to the model, the needle beside each turn."""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from keel.cli import console
from keel.cli.axes import run_of
from keel.cli.drift_alarm import verdict_words
from keel.cli.options import Given, takes
from keel.settings import AxisSource, ChatSettings, OpeningSettings

if TYPE_CHECKING:
    from keel.alarm import Alarm, TurnVerdict
    from keel.drift import Gauge
    from keel.engines import Completion, Engine
    from keel.errors import MissingArtifactError
    from keel.steering import Firing
    from keel.store import Run
    from keel.types import Conversation, Floors

EXAMPLES = """
Examples:

    keel chat runs/smollm2

    keel chat runs/smollm2 --capped --system "You are a ghost in a lighthouse."

    keel chat Qwen/Qwen3-32B --axis qwen-3-32b --capped
"""

_HELP = """/cap on, /cap off    switch activation capping on or off
/system TEXT         start over under this system prompt; without TEXT, under none
/save FILE           keep the conversation as JSON, readable by keel drift
/reset               start over
/quit                leave (also Ctrl-D)"""


@takes(ChatSettings(), AxisSource(), OpeningSettings())
def chat(
    run: console.Run,
    json: console.Json = False,
    *,
    given: Given,
) -> None:
    """Talk to the model; after each answer a needle shows where it stands.

    The needle goes from the role mean (0) to the default's mean (1), the floor marked. With
    --json, one object per answer on stdout, for scripts that pipe questions in.
    """
    from keel import pipeline
    from keel.drift import Gauge
    from keel.store import open_run

    settings = given.over(ChatSettings())
    run = run_of(run, given, settings.setting)
    opened = open_run(run)
    floors = pipeline.floors_of(opened, settings.setting)
    if settings.is_capped and floors is None:
        raise _no_floors(opened)  # before the model is loaded
    engine = console.open_model(opened.identity.model_id, given.over(OpeningSettings()))
    layer = pipeline.drift_layer(opened.axis, floors)
    levels = opened.turn_levels(layer)
    gauge = Gauge.of(engine, opened.axis, layer=layer, floors=floors, levels=levels)
    alarm = opened.alarm if opened.has_alarm else None
    if alarm is not None and floors is not None:
        alarm.check_below(floors.layers)
    session = Session(engine, gauge, floors, settings, run=opened, json=json, alarm=alarm)
    if settings.is_capped:
        session.cap(True)
    if not json:
        console.stderr.print(f"{opened.identity.model_id}, layer {layer}. /help for commands.")
    session.talk()


class Session:
    """One conversation in the terminal."""

    def __init__(
        self,
        engine: Engine,
        gauge: Gauge,
        floors: Floors | None,
        settings: ChatSettings,
        *,
        run: Run,
        json: bool,
        alarm: Alarm | None = None,
    ) -> None:
        from keel.alarm import State

        self.alarm, self.state = alarm, State()
        self.run = run
        self.engine, self.gauge, self.floors = engine, gauge, floors
        self.settings, self.system, self.json = settings, settings.system, json
        self.is_capped = False
        self.conversation: Conversation | None = None
        self.turn = 0

    def talk(self) -> None:
        """Reads and answers lines until the input ends; errors are printed and the chat goes on."""
        from keel.errors import ContextLengthError, KeelError

        while True:
            prompt = "capped> " if self.is_capped else "> "
            try:
                said = input("" if self.json or not sys.stdin.isatty() else prompt).strip()
            except EOFError:
                return
            try:
                if said.startswith("/"):
                    if not self.obey(said):
                        return
                elif said:
                    self.answer(said)
            except KeelError as error:
                hint = "; /reset starts over" if isinstance(error, ContextLengthError) else ""
                console.stderr.print(f"keel: {error}{hint}", style="red", markup=False)

    def obey(self, said: str) -> bool:
        """Runs a slash command; returns False to leave the chat."""
        from keel.errors import UsageError

        command, _, rest = said.partition(" ")
        rest = rest.strip()
        match command:
            case "/quit" | "/exit":
                return False
            case "/cap" if rest in ("on", "off"):
                self.cap(rest == "on")
            case "/system":
                self.system = rest or None
                self.start_over()
            case "/reset":
                self.start_over()
            case "/save" if rest:
                self.save(Path(rest))
            case "/help":
                console.stderr.print(_HELP, markup=False)
            case _:
                raise UsageError(f"{said!r} is no command here; /help lists them")
        return True

    def start_over(self) -> None:
        """Forgets the conversation, and what the alarm knows of it."""
        from keel.alarm import State

        self.conversation, self.turn, self.state = None, 0, State()

    def cap(self, wanted: bool) -> None:
        """Switches capping on or off. Raises MissingArtifactError where the run has no floors."""
        if wanted and self.floors is None:
            raise _no_floors(self.run)
        self.is_capped = wanted

    def answer(self, said: str) -> None:
        """Streams one answer, then shows its projection."""
        from keel.engines import Probe
        from keel.types import Conversation, Message, Prompt

        opening = [Message("system", self.system)] if self.system else []
        conversation = (
            Conversation((*opening, Message("user", said)), "chat")
            if self.conversation is None
            else self.conversation.with_user(said)
        )
        floors = list(self.floors) if self.is_capped and self.floors is not None else []
        recording = self.gauge.recording
        if self.alarm is not None:
            probe = Probe(self.alarm.layer, self.alarm.direction)
            recording = replace(recording, probes=(*recording.probes, probe))
        answers = self.engine.generate(
            [Prompt(f"chat/{self.turn}", conversation)],
            self.settings.sampling,
            seed=self.settings.seed + self.turn,
            recording=recording,
            interventions=floors,
            on_text=None if self.json else lambda _, piece: _say(piece),
        )
        (completion,) = answers
        self.conversation = conversation.with_reply(completion.text)
        self._show(completion, answers.firing)
        self.turn += 1

    def save(self, path: Path) -> None:
        """Writes the conversation as a transcript that `keel drift` reads."""
        from keel.errors import StorageError, UsageError

        if self.conversation is None:
            raise UsageError("nothing has been said yet; there is nothing to save")
        messages = [{"role": m.speaker, "content": m.content} for m in self.conversation.messages]
        try:
            path.write_text(
                jsonlib.dumps({"messages": messages}, indent=2, ensure_ascii=False) + "\n",
                encoding="utf-8",
            )
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error}") from error
        console.stderr.print(f"saved to {path}", markup=False)

    def _show(self, completion: Completion, firing: Firing | None) -> None:
        from keel.report import draw_needle

        assert completion.projections_TK is not None
        reading = self.gauge.reading(self.turn, completion.projections_TK, completion.text)
        levels = self.gauge.levels
        is_expected = levels is not None and levels.fits_system(self.system)
        expected = None if reading is None or not is_expected else reading.expected_gaps
        rate = None if firing is None else firing.rate
        verdict = self._judged(completion)
        if self.json:
            print(
                jsonlib.dumps(
                    {
                        "turn": self.turn,
                        "text": completion.text,
                        "is_capped": self.is_capped,
                        "firing_rate": rate,
                        "projection": None if reading is None else reading.projection,
                        "gaps": None if reading is None else reading.gaps,
                        "expected_gaps": expected,
                        "alarm": console.plain(verdict),
                    },
                    ensure_ascii=False,
                ),
                flush=True,
            )
            return
        _say("\n")
        if reading is not None:
            needle = draw_needle(reading.gaps, floor_gaps=self.gauge.floor_gaps)
            held = "" if rate is None else f"  held at {rate:.0%} of slots"
            usual = "" if expected is None else f", expected {expected:+.2f}"
            console.stderr.print(needle, f"{reading.gaps:+.2f} gaps{usual}{held}", markup=False)
        if verdict is not None:
            console.stderr.print(f"alarm: {verdict_words(verdict)}", markup=False)

    def _judged(self, completion: Completion) -> TurnVerdict | None:
        """What the run's alarm says of the answer; None without an alarm for this system prompt."""
        from keel.alarm import advance

        if self.alarm is None or not self.alarm.fits_system(self.system):
            return None
        assert completion.projections_TK is not None
        heights_T = completion.projections_TK[:, 1].double()
        mean = float(heights_T.mean()) if len(heights_T) else 0.0
        self.state, verdict = advance(self.alarm, self.state, mean, len(heights_T))
        return verdict


def _no_floors(run: Run) -> MissingArtifactError:
    from keel.errors import MissingArtifactError

    return MissingArtifactError(f"{run.path} has no floors to cap with; {run.floors_remedy}")


def _say(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
