"""Conversations -> projections of their assistant turns onto the axis."""

from keel.alarm import Alarm, Monitor, State, TurnVerdict, advance, provisional
from keel.drift.gauge import Gauge
from keel.drift.reading import check_answered, read_drift, read_thinking
from keel.drift.replaying import check_questions, replay
from keel.drift.transcripts import (
    Outline,
    Transcripts,
    read_conversations,
    read_transcripts,
    transcript_form,
)

__all__ = [
    "Alarm",
    "Gauge",
    "Monitor",
    "Outline",
    "State",
    "Transcripts",
    "TurnVerdict",
    "advance",
    "check_answered",
    "check_questions",
    "provisional",
    "read_conversations",
    "read_drift",
    "read_thinking",
    "read_transcripts",
    "replay",
    "transcript_form",
]
