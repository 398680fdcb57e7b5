"""Drift studies: simulated conversations in several domains, and what moves the model in them."""

from keel.studies.auditing import (
    ATTEMPTS,
    MESSAGE_TOKENS,
    Auditor,
    AuditorCase,
    EndpointAuditor,
    EngineAuditor,
    read_message,
)
from keel.studies.harm import HarmPoint, harm_correlations, harm_rates
from keel.studies.levels import turn_levels
from keel.studies.message_clusters import cluster_messages
from keel.studies.persona_share import space_shares
from keel.studies.planning import StudyPlan, plan_study
from keel.studies.prediction import MessageTable, predict_levels, prompt_correlation
from keel.studies.trajectories import (
    TurnPoint,
    arm_differences,
    conversation_paths,
    domain_paths,
    person_interval,
    variance_shares,
)

__all__ = [
    "ATTEMPTS",
    "MESSAGE_TOKENS",
    "Auditor",
    "AuditorCase",
    "EndpointAuditor",
    "EngineAuditor",
    "HarmPoint",
    "MessageTable",
    "StudyPlan",
    "TurnPoint",
    "arm_differences",
    "cluster_messages",
    "conversation_paths",
    "domain_paths",
    "harm_correlations",
    "harm_rates",
    "person_interval",
    "plan_study",
    "predict_levels",
    "prompt_correlation",
    "read_message",
    "space_shares",
    "turn_levels",
    "variance_shares",
]
