"""Conversations -> projections of their assistant turns onto the axis."""

from keel.drift.gauge import Gauge
from keel.drift.reading import read_drift, read_thinking
from keel.drift.replaying import replay
from keel.drift.transcripts import read_conversations

__all__ = [
    "Gauge",
    "read_conversations",
    "read_drift",
    "read_thinking",
    "replay",
]
