"""One message answered uncapped and capped, every token measured on the axis.

Knows nothing of HTTP or threads: events go to a function that the caller gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from keel import pipeline
from keel.drift import Gauge, check_answered
from keel.engines import Engine
from keel.errors import MissingArtifactError, UsageError
from keel.steering import Addition, Firing, Intervention
from keel.store import Run
from keel.types import Conversation, Floors, Prompt, Sampling

Side = Literal["uncapped", "capped"]


class StopRequest(Exception):  # noqa: N818 - nothing went wrong
    """Raised inside a forward pass to end the answer that is being written."""


@dataclass(frozen=True)
class TwoSidedQuestion:
    """The conversations to answer, each ending with the user, and how."""

    conversations: Mapping[Side, Conversation]
    """Answered in this order."""
    sampling: Sampling
    setting: str | None = None
    """Name of the run's setting that caps; None: its default."""
    strength: float = 0.0
    """Step along the axis on both sides, in mean residual norms; negative leads away from the
    Assistant."""
    seed: int = 0


@dataclass(frozen=True)
class Acted:
    """What a call's floors did, as counted inside the model while it ran."""

    setting: str
    layers: tuple[int, ...]
    fired: int
    """(Token, layer) slots that were raised to their floor."""
    slots: int
    """(Token, layer) slots that the floors saw."""


@dataclass(frozen=True)
class Measured:
    """One answer with its projections, in gap units: 0 is the role mean, 1 the default mean."""

    text: str
    pieces: tuple[tuple[str, float], ...]
    """The text token by token, each with its projection."""
    gaps: float | None
    """Mean over the tokens; None for an answer without tokens."""
    floor_gaps: float | None
    is_below_floor: bool | None
    finish: Literal["stop", "length", "stopped", "given"]
    """`stopped`: ended by the reader, `given`: read, not written."""
    acted: Acted | None
    """None where no floors were to act."""
    step: float = 0.0
    """The strength of the step along the axis that was added."""
    expected_gaps: float | None = None
    """Where the default's own answers stand at this turn; None where the run does not know."""


OnEvent = Callable[..., None]
"""Called as on_event(kind, **values): `begun`, `text` and `answered`, each with its side."""


class SideBySide:
    """A run's model, answering with and without the run's floors. One call at a time."""

    def __init__(self, engine: Engine, run: Run) -> None:
        """Raises ModelMismatchError where the run was made on another model."""
        pipeline.check_same_model(engine, run.axis)
        self.engine, self.run = engine, run

    @cached_property
    def settings(self) -> tuple[Floors, ...]:
        """Every setting of the run; empty where it was not calibrated."""
        run = self.run
        return run.floors_file.settings if run.has_floors else ()

    def gauge(self, setting: str | None) -> Gauge:
        """What measures answers under a setting: at its layer nearest to the axis' own."""
        floors = pipeline.floors_of(self.run, setting)
        layer = pipeline.drift_layer(self.run.axis, floors)
        levels = self.run.turn_levels(layer)
        return Gauge.of(self.engine, self.run.axis, layer=layer, floors=floors, levels=levels)

    def interventions(self, side: Side, setting: str | None, strength: float) -> list[Intervention]:
        """What acts on a side. Raises MissingArtifactError for a cap of a run without floors."""
        acting: list[Intervention] = []
        if strength:
            acting.append(Addition.along(self.run.axis, strength))
        return [*acting, *self._floors(setting)] if side == "capped" else acting

    def answer(
        self, question: TwoSidedQuestion, on_event: OnEvent, is_stopped: Callable[[], bool]
    ) -> None:
        """Answer on each side in turn, until `is_stopped`.

        Everything that can be refused is refused before the first token. Raises NotAppliedError
        where the floors did not reach the model: what was written until then is not to be used.
        """
        gauge = self.gauge(question.setting)
        acting = {
            side: self.interventions(side, question.setting, question.strength)
            for side in question.conversations
        }
        for side, conversation in question.conversations.items():
            self.engine.plan([Prompt(side, conversation)], question.sampling)
        for side in question.conversations:
            if is_stopped():
                return
            on_event("begun", side=side)
            answer = self._answered(question, side, gauge, acting[side], on_event, is_stopped)
            if answer is not None:
                on_event("answered", side=side, answer=answer)

    def read(self, conversation: Conversation, setting: str | None, on_event: OnEvent) -> None:
        """Measure the answers that a conversation holds; nothing acts and nothing is written."""
        check_answered([conversation])
        gauge = self.gauge(setting)
        texts = [m.content for m in conversation.messages if m.speaker == "assistant"]
        for reading in self.engine.read([conversation], recording=gauge.recording):
            records = {record.turn: record for record in reading.turns}
            for turn, text in enumerate(texts):
                record = records.get(turn)
                ids = () if record is None else record.token_ids
                projections_TK = None if record is None else record.projections_TK
                answer = self._measured(
                    gauge, text, ids, projections_TK, "given", standing=(turn, conversation.system)
                )
                on_event("answered", side="uncapped", turn=turn, answer=answer)

    def _answered(
        self,
        question: TwoSidedQuestion,
        side: Side,
        gauge: Gauge,
        acting: Sequence[Intervention],
        on_event: OnEvent,
        is_stopped: Callable[[], bool],
    ) -> Measured | None:
        """The answer, or None where it was stopped before its first word."""
        written: list[str] = []

        def add(_: int, piece: str) -> None:
            written.append(piece)
            on_event("text", side=side, text=piece)

        def check() -> None:
            if is_stopped():
                raise StopRequest

        conversation = question.conversations[side]
        answers = self.engine.generate(
            [Prompt(side, conversation)],
            question.sampling,
            seed=question.seed,
            recording=gauge.recording,
            interventions=tuple(acting),
            on_text=add,
            on_step=check,
        )
        try:
            (completion,) = answers
        except StopRequest:
            text = "".join(written)
            return self._reread(question, side, gauge, acting, text) if text.strip() else None
        setting, firing = self._setting_on(side, question), answers.firing
        return self._measured(
            gauge,
            completion.text,
            completion.token_ids,
            completion.projections_TK,
            completion.finish,
            standing=(_answers_in(conversation), conversation.system),
            acted=None if setting is None else _acted(setting, firing),
            step=question.strength,
        )

    def _reread(
        self,
        question: TwoSidedQuestion,
        side: Side,
        gauge: Gauge,
        acting: Sequence[Intervention],
        text: str,
    ) -> Measured:
        """What was written of a stopped answer, measured by a pass under the same interventions.

        A call that is broken off has no counts: how often it intervened is unknown.
        """
        conversation = question.conversations[side].with_reply(text)
        last = _answers_in(conversation) - 1
        readings = self.engine.read(
            [conversation], recording=gauge.recording, interventions=tuple(acting)
        )
        (reading,) = readings
        record = next((each for each in reading.turns if each.turn == last), None)
        setting = self._setting_on(side, question)
        return self._measured(
            gauge,
            text,
            () if record is None else record.token_ids,
            None if record is None else record.projections_TK,
            "stopped",
            standing=(last, conversation.system),
            acted=None if setting is None else _acted(setting, readings.firing),
            step=question.strength,
        )

    def _measured(
        self,
        gauge: Gauge,
        text: str,
        token_ids: Sequence[int],
        projections_TK: Float[Tensor, "token probe"] | None,
        finish: Literal["stop", "length", "stopped", "given"],
        *,
        standing: tuple[int, str | None],
        acted: Acted | None = None,
        step: float = 0.0,
    ) -> Measured:
        """`standing`: the turn of its conversation, and the system prompt."""
        turn, system = standing
        reading = None if projections_TK is None else gauge.reading(turn, projections_TK, text)
        is_known = gauge.levels is not None and gauge.levels.fits_system(system)
        gaps = [] if reading is None else map(gauge.in_gaps, reading.token_projections)
        pieces = pieces_of(self.engine.template.tokenizer, token_ids)
        return Measured(
            text,
            tuple(zip(pieces, gaps, strict=False)),
            None if reading is None else reading.gaps,
            gauge.floor_gaps,
            None if reading is None else reading.is_below_floor,
            finish,
            acted,
            step,
            reading.expected_gaps if reading is not None and is_known else None,
        )

    def _setting_on(self, side: Side, question: TwoSidedQuestion) -> Floors | None:
        return self._floors(question.setting) if side == "capped" else None

    def _floors(self, setting: str | None) -> Floors:
        floors = pipeline.floors_of(self.run, setting)
        if floors is None:
            raise MissingArtifactError(
                f"{self.run.path} has no floors, so nothing can be capped; {self.run.floors_remedy}"
            )
        return floors


def open_side_by_side(run: Run, open_engine: Callable[[str], Engine]) -> SideBySide:
    """The run's model, loaded once everything that needs no model is known to be there.

    Raises MissingArtifactError for a run without an axis.
    """
    model = run.axis.identity.model_id
    return SideBySide(open_engine(model), run)


def _answers_in(conversation: Conversation) -> int:
    return sum(message.speaker == "assistant" for message in conversation.messages)


def pieces_of(tokenizer: Any, token_ids: Sequence[int]) -> Iterator[str]:
    """The text that each token adds; empty for a token whose character is not yet whole.

    Together they are the decoded text, but for bytes at its end that never became a character.
    """
    length = 0
    for count in range(1, len(token_ids) + 1):
        text = tokenizer.decode(list(token_ids[:count]), skip_special_tokens=True)
        is_whole = len(text) >= length and not text.endswith("�")
        yield text[length:] if is_whole else ""
        length = len(text) if is_whole else length


def _acted(floors: Floors, firing: Firing | None) -> Acted:
    """Counts of the floors' own layers. Raises UsageError where the engine gave no counts."""
    if firing is None:
        raise UsageError("the engine counted nothing where floors were to act; load it again")
    counts = {layer: firing.slots.get(layer, 0) for layer in floors.layers}
    fired = sum(firing.fired.get(layer, 0) for layer in floors.layers)
    return Acted(floors.name, floors.layers, fired, sum(counts.values()))
