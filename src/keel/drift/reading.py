"""Projects the assistant turns of given conversations onto the axis. Samples nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from keel.drift.gauge import Gauge
from keel.engines import Engine, Reading
from keel.errors import UsageError
from keel.steering import Intervention
from keel.types import (
    AssistantAxis,
    Conversation,
    DefaultAnswers,
    DriftReading,
    Floors,
    Message,
    TurnLevels,
    TurnReading,
)


def read_drift(
    engine: Engine,
    conversations: Sequence[Conversation],
    axis: AssistantAxis,
    *,
    layer: int | None = None,
    floors: Floors | None = None,
    default_answers: DefaultAnswers | None = None,
    levels: TurnLevels | None = None,
    false_alarms: float = 0.05,
    interventions: Sequence[Intervention] = (),
    is_alone_read: bool = False,
) -> Iterator[DriftReading]:
    """Projections of each conversation's assistant turns onto the axis, in the order given.

    A turn's projection is the mean over its content tokens at `layer` (by default the axis' own);
    a turn without content tokens is listed as `unread`, the others keep their numbers. A turn is
    marked that lies lower than all but the share `false_alarms` (0 to 0.5) of `default_answers` of
    its length, and a later one than of conversations at its turn (`levels`, which count only under
    their system prompt); `floors` are only shown; `interventions` act on the model. All
    conversations are read in one call; with `is_alone_read` each later turn is read in a second,
    behind its message alone. Raises UsageError for a conversation without an assistant turn,
    before the model runs.
    """
    gauge = Gauge.of(
        engine,
        axis,
        layer=layer,
        floors=floors,
        default_answers=default_answers,
        levels=levels,
        false_alarms=false_alarms,
    )
    check_answered(conversations)
    # The calls follow each other: an engine gives one result at a time.
    acting = tuple(interventions)
    if is_alone_read:
        return _with_alone(engine, conversations, gauge, acting)
    return _in_order(engine, conversations, gauge, acting)


def check_answered(conversations: Sequence[Conversation]) -> None:
    """Raise UsageError for a conversation without an assistant turn to read."""
    for conversation in conversations:
        if not any(message.speaker == "assistant" for message in conversation.messages):
            raise UsageError(
                f"conversation {conversation.id!r} has {len(conversation.messages)} message(s) "
                "and no assistant turn, expected at least one to read; add answers, have it "
                "answered anew with --replay, or leave it out with --skip-unreadable"
            )


def read_thinking(
    engine: Engine,
    conversations: Sequence[Conversation],
    axis: AssistantAxis,
    *,
    layer: int | None = None,
    floors: Floors | None = None,
) -> Iterator[DriftReading]:
    """Projections of what was thought in each conversation's turns, as paths of their own.

    Each turn's thinking is read behind the messages before it, without the thinking of earlier
    turns, as templates show it. Turns without thinking are `unread`; a path's id ends with
    `(thinking)`.
    """
    gauge = Gauge.of(engine, axis, layer=layer, floors=floors)
    recording = replace(gauge.recording, spans="thinking")
    for conversation in conversations:
        until = [n for n, m in enumerate(conversation.messages) if m.speaker == "assistant"]
        begun = [Conversation(conversation.messages[: n + 1], conversation.id) for n in until]
        thoughts = [engine.template.said(part.messages[-1]).thinking for part in begun]
        turns = [number for number, thought in enumerate(thoughts) if thought]
        readings: dict[int, TurnReading] = {}
        for reading in engine.read([begun[turn] for turn in turns], recording=recording):
            turn = turns[reading.index]
            for record in reading.turns:
                assert record.projections_TK is not None, "the engine recorded no projections"
                read = gauge.reading(turn, record.projections_TK, thoughts[turn])
                if read is not None:
                    readings[turn] = read
        yield DriftReading(
            f"{conversation.id} (thinking)",
            gauge.layer,
            tuple(readings[turn] for turn in sorted(readings)),
            gauge.floor,
            tuple(turn for turn in range(len(begun)) if turn not in readings),
        )


def _in_order(
    engine: Engine,
    conversations: Sequence[Conversation],
    gauge: Gauge,
    interventions: tuple[Intervention, ...],
) -> Iterator[DriftReading]:
    """Each reading as soon as all before it are there: an engine reads in any order."""
    waiting: dict[int, Reading] = {}
    upcoming = 0
    for reading in engine.read(
        conversations, recording=gauge.recording, interventions=interventions
    ):
        waiting[reading.index] = reading
        while upcoming in waiting:
            yield _drift_of(waiting.pop(upcoming), conversations[upcoming], gauge)
            upcoming += 1
    assert upcoming == len(conversations), "the engine left out a conversation"


def _with_alone(
    engine: Engine,
    conversations: Sequence[Conversation],
    gauge: Gauge,
    interventions: tuple[Intervention, ...],
) -> Iterator[DriftReading]:
    """The readings, each turn's with that of the same words without history.

    A first turn has no history: its words alone are the turn itself.
    """
    apart: list[Conversation] = []
    of: list[tuple[int, int]] = []
    for number, conversation in enumerate(conversations):
        for turn, alone in enumerate(_turns_alone(conversation)):
            if turn and alone.messages[-2:-1] and alone.messages[-2].speaker == "user":
                apart.append(alone)
                of.append((number, turn))
    bare = replace(gauge, levels=None)
    readings = _in_order(engine, apart, bare, interventions) if apart else iter(())
    gaps = {at: each.turns[0].gaps for at, each in zip(of, readings, strict=True) if each.turns}
    for number, drift in enumerate(_in_order(engine, conversations, gauge, interventions)):
        turns = (
            replace(turn, gaps_alone=gaps.get((number, turn.turn)) if turn.turn else turn.gaps)
            for turn in drift.turns
        )
        yield replace(drift, turns=tuple(turns))


def _turns_alone(conversation: Conversation) -> Iterator[Conversation]:
    """Each assistant turn behind the system prompt and the message that it answers."""
    opening = tuple(m for m in conversation.messages if m.speaker == "system")
    before: tuple[Message, ...] = ()
    for message in conversation.messages:
        if message.speaker == "assistant":
            yield Conversation((*opening, *before, message), conversation.id)
            before = ()
        elif message.speaker != "system":
            before = (*before, message)


def _drift_of(reading: Reading, conversation: Conversation, gauge: Gauge) -> DriftReading:
    if gauge.levels is not None and not gauge.levels.fits_system(conversation.system):
        gauge = replace(gauge, levels=None)
    texts = [m.content for m in conversation.messages if m.speaker == "assistant"]
    turns: list[TurnReading] = []
    for record in reading.turns:
        assert record.projections_TK is not None, "the engine recorded no projections"
        turn = gauge.reading(record.turn, record.projections_TK, texts[record.turn])
        if turn is not None:
            turns.append(turn)
    unread = tuple(sorted(set(range(len(texts))) - {turn.turn for turn in turns}))
    return DriftReading(
        conversation.id, gauge.layer, tuple(turns), gauge.floor, unread, gauge.stated_false_alarms
    )
