"""Projects the assistant turns of given conversations onto the axis. Samples nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keel.drift.gauge import Gauge
from keel.engines import Engine, Reading
from keel.errors import UsageError
from keel.steering import Intervention
from keel.types import AssistantAxis, Conversation, DriftReading, Floors, TurnReading


def read_drift(
    engine: Engine,
    conversations: Sequence[Conversation],
    axis: AssistantAxis,
    *,
    layer: int | None = None,
    floors: Floors | None = None,
    interventions: Sequence[Intervention] = (),
) -> Iterator[DriftReading]:
    """Projections of each conversation's assistant turns onto the axis, in the order given.

    A turn's projection is the mean over its content tokens at `layer` (by default the axis' own);
    a turn without content tokens is listed as `unread`, the others keep their numbers. `floors`
    only marks turns below them; `interventions` act on the model. All conversations are read in
    one call. Raises UsageError for a conversation without an assistant turn, before the model runs.
    """
    gauge = Gauge.of(engine, axis, layer=layer, floors=floors)
    for conversation in conversations:
        if not any(message.speaker == "assistant" for message in conversation.messages):
            raise UsageError(
                f"conversation {conversation.id!r} has {len(conversation.messages)} message(s) "
                "and no assistant turn, expected at least one to read; add answers, or have it "
                "answered anew"
            )
    readings = engine.read(
        conversations, recording=gauge.recording, interventions=tuple(interventions)
    )
    return _in_order(readings, conversations, gauge)


def _in_order(
    readings: Iterator[Reading], conversations: Sequence[Conversation], gauge: Gauge
) -> Iterator[DriftReading]:
    """Each reading as soon as all before it are there: an engine reads in any order."""
    waiting: dict[int, Reading] = {}
    upcoming = 0
    for reading in readings:
        waiting[reading.index] = reading
        while upcoming in waiting:
            yield _drift_of(waiting.pop(upcoming), conversations[upcoming], gauge)
            upcoming += 1
    assert upcoming == len(conversations), "the engine left out a conversation"


def _drift_of(reading: Reading, conversation: Conversation, gauge: Gauge) -> DriftReading:
    texts = [m.content for m in conversation.messages if m.speaker == "assistant"]
    turns: list[TurnReading] = []
    for record in reading.turns:
        assert record.projections_TK is not None, "the engine recorded no projections"
        turn = gauge.reading(record.turn, record.projections_TK, texts[record.turn])
        if turn is not None:
            turns.append(turn)
    unread = tuple(sorted(set(range(len(texts))) - {turn.turn for turn in turns}))
    return DriftReading(conversation.id, gauge.layer, tuple(turns), gauge.floor, unread)
