"""Drift studies: simulated conversations in several domains, and what moves the model in them."""

from keel.studies.levels import turn_levels
from keel.studies.planning import StudyPlan, plan_study
from keel.studies.trajectories import (
    TurnPoint,
    arm_differences,
    domain_paths,
    person_interval,
    variance_shares,
)

__all__ = [
    "StudyPlan",
    "TurnPoint",
    "arm_differences",
    "domain_paths",
    "person_interval",
    "plan_study",
    "turn_levels",
    "variance_shares",
]
