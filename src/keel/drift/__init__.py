"""From conversations to their paths along the axis, turn by turn."""

from keel.drift.gauge import Gauge
from keel.drift.reading import read_drift
from keel.drift.replaying import replay
from keel.drift.terminal import draw_drift, draw_needle, draw_replay, draw_sparkline, draw_turn
from keel.drift.transcripts import read_conversations

__all__ = [
    "Gauge",
    "draw_drift",
    "draw_needle",
    "draw_replay",
    "draw_sparkline",
    "draw_turn",
    "read_conversations",
    "read_drift",
    "replay",
]
