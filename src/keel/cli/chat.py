"""keel chat: talk to the model, the needle beside each turn."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from keel.cli import console
from keel.cli.axes import run_of
from keel.cli.drift_alarm import verdict_words
from keel.cli.options import Given, takes
from keel.settings import AxisSource, ChatSettings, OpeningSettings
from keel.words import counted, percent, signed

if TYPE_CHECKING:
    from torch import Tensor

    from keel.alarm import Alarm, State, TurnVerdict
    from keel.drift import Gauge
    from keel.engines import Engine, Recording
    from keel.errors import MissingArtifactError
    from keel.store import Run
    from keel.types import Conversation, Floors, Message

EXAMPLES = """
Examples:

    keel chat runs/smollm2

    keel chat runs/smollm2 --capped --system "You are a ghost in a lighthouse."

    keel chat Qwen/Qwen3-32B --axis qwen-3-32b --capped
"""

_HELP = """/cap on, /cap off    switch activation capping on or off; /cap alone says which it is
/both TEXT           answer TEXT uncapped and capped; without TEXT, the last message the other way
/retry               answer the last message anew, with other draws
/undo                take the last message and its answer back
/system TEXT         start over under this system prompt; without TEXT, under none
/load FILE           go on with a conversation, in any form that keel drift reads
/save FILE           keep the conversation as JSON, readable by keel drift
/reset               start over
/quit                leave (also Ctrl-D); Ctrl-C ends an answer and keeps what was said"""
_LEGEND = "The needle: ┊ the mean role (0) and the model by default (1), ╋ the floor, ● this answer"


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
    layer = pipeline.drift_layer(opened.axis, floors)
    Gauge(opened.axis, layer)  # refuses an axis without both means before the model is loaded
    engine = console.open_model(opened.identity.model_id, given.over(OpeningSettings()))
    levels = opened.turn_levels(layer)
    gauge = Gauge.of(engine, opened.axis, layer=layer, floors=floors, levels=levels)
    alarm = opened.alarm if opened.has_alarm else None
    if alarm is not None and floors is not None:
        alarm.check_below(floors.layers)
    session = Session(engine, gauge, floors, settings, run=opened, json=json, alarm=alarm)
    if not json:
        console.stderr.print(f"{opened.identity.model_id}, layer {layer}. /help for commands.")
    if settings.is_capped:
        session.cap(True)
    session.talk()


@dataclass(frozen=True)
class _Moment:
    """The chat as it was before a message, and the message."""

    conversation: Conversation | None
    state: State
    said: str


@dataclass(frozen=True)
class _Answer:
    """An answer with what was recorded of it."""

    text: str
    projections_TK: Tensor
    """Per content token: at the gauge's layer, and at the alarm's where there is an alarm."""
    is_capped: bool
    firing_rate: float | None = None
    ends_line: bool = False
    """Whether its line in the terminal is ended already."""


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
        self.past: list[_Moment] = []
        self.draws = 0
        """How often the last message was answered anew."""
        self.is_explained = False

    @property
    def turn(self) -> int:
        """0-based number of the turn that comes next."""
        return len(self.past)

    def talk(self) -> None:
        """Reads and answers lines until the input ends; errors are printed and the chat goes on."""
        from keel.errors import ContextLengthError, KeelError

        is_typed = sys.stdin.isatty() and not self.json
        if is_typed:
            with suppress(ImportError):  # Windows has none
                import readline  # noqa: F401 - gives input() its line editing and its history
        while True:
            prompt = "capped> " if self.is_capped else "> "
            try:
                said = input(prompt if is_typed else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                if not is_typed:
                    raise
                console.stderr.print("\nCtrl-D or /quit leaves", markup=False)
                continue
            try:
                if said.startswith("/"):
                    if not self.obey(said):
                        return
                elif said:
                    self.draws = 0
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
            case "/cap" if not rest:
                self._note(f"{self._capping}; /cap on, /cap off")
            case "/both":
                self.answer_both(rest)
            case "/retry" if not rest:
                self.retry()
            case "/undo" if not rest:
                self.undo()
                left = counted(self.turn, "message") if self.turn else "nothing"
                self._note(f"taken back, with its answer; {left} said before it")
            case "/load" if rest:
                self.load(Path(rest))
            case "/load" | "/save" if not rest:
                raise UsageError(f"{command} needs a file: {command} talk.json")
            case "/system" | "/reset":
                self.system = self.system if command == "/reset" else rest or None
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

        self.conversation, self.past, self.state, self.draws = None, [], State(), 0
        prompt = f"under the system prompt “{self.system}”" if self.system else "no system prompt"
        self._note(f"started over, {prompt}")

    def cap(self, wanted: bool) -> None:
        """Switches capping on or off. Raises MissingArtifactError where the run has no floors."""
        if wanted and self.floors is None:
            raise _no_floors(self.run)
        self.is_capped = wanted
        self._note(self._capping)

    @property
    def _capping(self) -> str:
        """Whether answers are capped, and by which floors."""
        if not self.is_capped or self.floors is None:
            return "capping is off"
        layers = ", ".join(str(layer) for layer in self.floors.layers)
        return f"capping is on, by {self.floors.name}; layers with a floor: {layers}"

    @staticmethod
    def _note(said: str) -> None:
        console.stderr.print(said, markup=False, soft_wrap=True)

    def answer(self, said: str) -> None:
        """Streams one answer, then shows its projection."""
        before = _Moment(self.conversation, self.state, said)
        question = self._question(before)
        answer = self._generate(question, self.is_capped)
        if answer is None:
            return
        self.conversation = question.with_reply(answer.text)
        self._show(answer)
        self.past.append(before)

    def answer_both(self, said: str) -> None:
        """Answers uncapped and capped; the conversation goes on with the side that /cap sets.

        Without a message, the last one is answered in the other way. Raises UsageError where
        nothing was said, MissingArtifactError where the run has no floors.
        """
        if self.floors is None:
            raise _no_floors(self.run)
        if said:
            self.draws = 0
            self._name_side(self.is_capped)
            before = self.turn
            self.answer(said)
            if self.turn == before:
                return
        question = self._question(self._last())
        self._name_side(not self.is_capped)
        other = self._generate(question, not self.is_capped, turn=self.turn - 1)
        if other is not None:
            self._show(other, is_kept=False)

    def retry(self) -> None:
        """Answers the last message anew, with other draws; one that is interrupted changes nothing.

        Raises UsageError where there is no message.
        """
        last, draws = self._last(), self.draws + 1
        conversation, state = self.conversation, self.state
        self.undo()
        self.draws = draws
        self.answer(last.said)
        if not self.past or self.past[-1].said is not last.said:
            self.past.append(last)
            self.conversation, self.state = conversation, state

    def undo(self) -> None:
        """Takes the last message and its answer back. Raises UsageError where there is none."""
        last = self._last()
        self.past.pop()
        self.conversation, self.state, self.draws = last.conversation, last.state, 0

    def load(self, path: Path) -> None:
        """Goes on with a conversation from a file, its answers read as they stand.

        Raises UsageError for a file that does not hold exactly one conversation.
        """
        from keel.drift import read_transcripts
        from keel.errors import UsageError
        from keel.types import Conversation

        read = read_transcripts([path])
        if len(read.conversations) != 1:
            raise UsageError(
                f"{path} holds {len(read.conversations)} conversations, expected 1; keel drift "
                "reads many"
            )
        (loaded,) = read.conversations
        for line in read.summary():
            console.stderr.print(line, markup=False)
        messages = loaded.messages
        self._note(f"{path}: {counted(len(messages), 'message')}")
        open_question = messages[-1].content if messages[-1].speaker == "user" else ""
        answered = messages[:-1] if open_question else messages
        self.system = next((m.content for m in messages if m.speaker == "system"), None)
        self.start_over()
        if any(message.speaker == "assistant" for message in answered):
            self._take(Conversation(answered, "chat"))
        if open_question:
            self.answer(open_question)

    def _take(self, conversation: Conversation) -> None:
        """Reads a conversation's answers and shows where each stands."""
        (reading,) = self.engine.read([conversation], recording=self._recording)
        recorded = {turn.turn: turn.projections_TK for turn in reading.turns}
        messages = conversation.messages
        ends = [index for index, m in enumerate(messages) if m.speaker == "assistant"]
        for turn, end in enumerate(ends):
            question = messages[end - 1].content if end else ""
            before = _Moment(_some(messages[: max(end - 1, 0)]), self.state, question)
            if (projections_TK := recorded.get(turn)) is not None:
                console.stderr.print(f"{question}\n{messages[end].content}", markup=False)
                self._show(_Answer(messages[end].content, projections_TK, False, ends_line=True))
            self.past.append(before)
        self.conversation = conversation

    def _last(self) -> _Moment:
        from keel.errors import UsageError

        if not self.past:
            raise UsageError("nothing has been said yet; type a message first")
        return self.past[-1]

    def _question(self, moment: _Moment) -> Conversation:
        from keel.types import Conversation, Message

        if moment.conversation is not None:
            return moment.conversation.with_user(moment.said)
        opening = [Message("system", self.system)] if self.system else []
        return Conversation((*opening, Message("user", moment.said)), "chat")

    @property
    def _recording(self) -> Recording:
        from keel.engines import Probe

        recording = self.gauge.recording
        if self.alarm is None:
            return recording
        probe = Probe(self.alarm.layer, self.alarm.direction)
        return replace(recording, probes=(*recording.probes, probe))

    def _generate(
        self, question: Conversation, is_capped: bool, turn: int | None = None
    ) -> _Answer | None:
        """One answer as it streams; None where it was ended before its first word."""
        from keel.seeds import seed_of
        from keel.types import Prompt

        turn = self.turn if turn is None else turn
        seed = self.settings.seed + turn
        floors = list(self.floors) if is_capped and self.floors is not None else []
        pieces: list[str] = []

        def hear(_: int, piece: str) -> None:
            pieces.append(piece)
            if not self.json:
                _say(piece)

        answers = self.engine.generate(
            [Prompt(f"chat/{turn}", question)],
            self.settings.sampling,
            seed=seed_of(seed, self.draws) if self.draws else seed,
            recording=self._recording,
            interventions=floors,
            on_text=hear,
        )
        try:
            (completion,) = answers
        except KeyboardInterrupt:
            if self.json:
                raise
            return self._stopped(question, "".join(pieces), is_capped)
        assert completion.projections_TK is not None
        rate = None if answers.firing is None else answers.firing.rate
        return _Answer(completion.text, completion.projections_TK, is_capped, rate)

    def save(self, path: Path) -> None:
        """Writes the conversation as a transcript that `keel drift` reads."""
        from keel.errors import StorageError, UsageError

        if self.conversation is None:
            raise UsageError("nothing has been said yet; there is nothing to save")
        messages = [{"role": m.speaker, "content": m.content} for m in self.conversation.messages]
        content = jsonlib.dumps({"messages": messages}, indent=2, ensure_ascii=False)
        try:
            path.write_text(f"{content}\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error}") from error
        self._note(f"saved to {path}")

    def _stopped(self, question: Conversation, text: str, is_capped: bool) -> _Answer | None:
        """What an ended answer had said, read once more: a call that was broken off has no means.

        None where it had said nothing.
        """
        _say("\n")
        if not text.strip():
            console.stderr.print("stopped before the first word; nothing is kept", markup=False)
            return None
        console.stderr.print("stopped; what was said is kept", markup=False)
        floors = list(self.floors) if is_capped and self.floors is not None else []
        (reading,) = self.engine.read(
            [question.with_reply(text)], recording=self._recording, interventions=floors
        )
        projections_TK = reading.turns[-1].projections_TK
        assert projections_TK is not None
        return _Answer(text, projections_TK, is_capped, ends_line=True)

    def _name_side(self, is_capped: bool) -> None:
        if not self.json:
            console.stderr.print("capped:" if is_capped else "uncapped:", markup=False)

    def _show(self, answer: _Answer, *, is_kept: bool = True) -> None:
        """Shows where an answer stands; the alarm hears of it where the conversation keeps it."""
        from keel.report import draw_needle

        turn = self.turn if is_kept else self.turn - 1
        reading = self.gauge.reading(turn, answer.projections_TK, answer.text)
        levels = self.gauge.levels
        is_expected = levels is not None and levels.fits_system(self.system)
        expected = None if reading is None or not is_expected else reading.expected_gaps
        verdict = self._judged(answer.projections_TK) if is_kept else None
        rate = answer.firing_rate
        if self.json:
            print(
                jsonlib.dumps(
                    {
                        "turn": turn,
                        "text": answer.text,
                        "is_capped": answer.is_capped,
                        "is_kept": is_kept,
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
        if not answer.ends_line:
            _say("\n")
        if reading is not None:
            if not self.is_explained:
                console.stderr.print(_LEGEND, style="dim", markup=False)
                self.is_explained = True
            needle = draw_needle(reading.gaps, floor_gaps=self.gauge.floor_gaps)
            held = "" if rate is None else f"  held at {percent(rate)} of slots"
            usual = "" if expected is None else f", expected {signed(expected)}"
            console.stderr.print(needle, f"{signed(reading.gaps)} gaps{usual}{held}", markup=False)
        if verdict is not None:
            console.stderr.print(f"alarm: {verdict_words(verdict)}", markup=False)

    def _judged(self, projections_TK: Tensor) -> TurnVerdict | None:
        """What the run's alarm says of the answer; None without an alarm for this system prompt."""
        from keel.alarm import advance

        if self.alarm is None or not self.alarm.fits_system(self.system):
            return None
        heights_T = projections_TK[:, 1].double()
        mean = float(heights_T.mean()) if len(heights_T) else 0.0
        self.state, verdict = advance(self.alarm, self.state, mean, len(heights_T))
        return verdict


def _some(messages: Sequence[Message]) -> Conversation | None:
    """The messages as a conversation; None where no user has spoken in them."""
    from keel.types import Conversation

    spoken = any(message.speaker == "user" for message in messages)
    return Conversation(tuple(messages), "chat") if spoken else None


def _no_floors(run: Run) -> MissingArtifactError:
    from keel.errors import MissingArtifactError

    return MissingArtifactError(f"{run.path} has no floors to cap with; {run.floors_remedy}")


def _say(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
