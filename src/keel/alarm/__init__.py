"""An alarm for drift: per turn the evidence that a conversation has left the default's level.

Pure numbers: a turn is its mean projection and its number of tokens. Knows no model and no text.
"""

from keel.alarm.evidence import State, advance, provisional
from keel.alarm.monitor import Monitor
from keel.alarm.planted import Detection, detection, evidence_paths, planted, tuned
from keel.alarm.value import (
    STATISTICS,
    Alarm,
    AlarmFit,
    Statistic,
    TurnVerdict,
    VerdictState,
    system_hash,
)

__all__ = [
    "STATISTICS",
    "Alarm",
    "AlarmFit",
    "Detection",
    "Monitor",
    "State",
    "Statistic",
    "TurnVerdict",
    "VerdictState",
    "advance",
    "detection",
    "evidence_paths",
    "planted",
    "provisional",
    "system_hash",
    "tuned",
]
