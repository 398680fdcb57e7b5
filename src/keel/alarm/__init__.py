"""An alarm for drift: per turn the evidence that a conversation has left the default's level.

Pure numbers: a turn is its mean projection and its number of tokens. Knows no model and no text.
"""

from keel.alarm.conversations import ConversationMeans, TurnMean
from keel.alarm.evidence import State, advance, provisional
from keel.alarm.fitting import FEWEST_CONVERSATIONS, estimated, fit_alarm, turn_levels
from keel.alarm.monitor import Monitor
from keel.alarm.planted import Detection, detection, evidence_paths, planted, tuned
from keel.alarm.value import (
    Alarm,
    AlarmFit,
    FitCheck,
    TurnVerdict,
    VerdictState,
)
from keel.types import system_hash

__all__ = [
    "FEWEST_CONVERSATIONS",
    "Alarm",
    "AlarmFit",
    "ConversationMeans",
    "Detection",
    "FitCheck",
    "Monitor",
    "State",
    "TurnMean",
    "TurnVerdict",
    "VerdictState",
    "advance",
    "detection",
    "estimated",
    "evidence_paths",
    "fit_alarm",
    "planted",
    "provisional",
    "system_hash",
    "tuned",
    "turn_levels",
]
