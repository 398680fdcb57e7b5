"""The same items answered under several arms, and what that shows."""

from keel.evaluate.answering import Answerer, EngineAnswerer
from keel.evaluate.arm_making import ArmSources, make_arms, spoken_arms
from keel.evaluate.arm_names import ArmSpec, parse_arms
from keel.evaluate.arms import Arm
from keel.evaluate.instructions import ASSISTANT_PROMPT, Instruction
from keel.evaluate.running import (
    AnsweringPlan,
    answer_first,
    answer_items,
    batches_of,
    cases_of,
    first_items,
    openings,
    plan_answers,
)
from keel.evaluate.served import ServedAnswerer, served_arms
from keel.evaluate.suites import (
    Attack,
    base_purpose_suite,
    base_traits_suite,
    drift_harm_suite,
    jailbreak_suite,
    susceptibility_suite,
)
from keel.evaluate.summary import ArmAnswers, SummarySettings, summarise_arms

__all__ = [
    "ASSISTANT_PROMPT",
    "Answerer",
    "AnsweringPlan",
    "Arm",
    "ArmAnswers",
    "ArmSources",
    "ArmSpec",
    "Attack",
    "EngineAnswerer",
    "Instruction",
    "ServedAnswerer",
    "SummarySettings",
    "answer_first",
    "answer_items",
    "base_purpose_suite",
    "base_traits_suite",
    "batches_of",
    "cases_of",
    "drift_harm_suite",
    "first_items",
    "jailbreak_suite",
    "make_arms",
    "openings",
    "parse_arms",
    "plan_answers",
    "served_arms",
    "spoken_arms",
    "summarise_arms",
    "susceptibility_suite",
]
