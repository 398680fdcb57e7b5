"""Conversations -> projections of their assistant turns onto the axis."""

from keel.drift.gauge import Gauge
from keel.drift.reading import check_answered, read_drift, read_thinking
from keel.drift.replaying import replay
from keel.drift.transcripts import read_conversations

__all__ = [
    "Gauge",
    "check_answered",
    "read_conversations",
    "read_drift",
    "read_thinking",
    "replay",
]
