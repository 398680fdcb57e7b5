"""The same items answered under several arms, and what that shows."""

from keel.evaluate.answering import Answer, AnsweredBatch, Answerer, EngineAnswerer
from keel.evaluate.arm_making import ArmSources, make_arms, spoken_arms
from keel.evaluate.arms import ASSISTANT_PROMPT, Arm, ArmSpec, Instruction, parse_arms
from keel.evaluate.evaluation import (
    AnsweringPlan,
    Evaluation,
    Procedure,
    answer_first,
    answer_items,
    batches_of,
    cases_of,
    extend_plan,
    first_items,
    plan_answers,
)
from keel.evaluate.served import ServedAnswerer, served_arms
from keel.evaluate.suites import (
    HARMFUL,
    SUITES,
    Attack,
    base_purpose_suite,
    base_traits_suite,
    drift_harm_suite,
    jailbreak_suite,
    open_suite,
    suite,
    susceptibility_suite,
)
from keel.evaluate.summary import ArmAnswers, SummarySettings, summarise_arms

__all__ = [
    "ASSISTANT_PROMPT",
    "HARMFUL",
    "SUITES",
    "Answer",
    "AnsweredBatch",
    "Answerer",
    "AnsweringPlan",
    "Arm",
    "ArmAnswers",
    "ArmSources",
    "ArmSpec",
    "Attack",
    "EngineAnswerer",
    "Evaluation",
    "Instruction",
    "Procedure",
    "ServedAnswerer",
    "SummarySettings",
    "answer_first",
    "answer_items",
    "base_purpose_suite",
    "base_traits_suite",
    "batches_of",
    "cases_of",
    "drift_harm_suite",
    "extend_plan",
    "first_items",
    "jailbreak_suite",
    "make_arms",
    "open_suite",
    "parse_arms",
    "plan_answers",
    "served_arms",
    "spoken_arms",
    "suite",
    "summarise_arms",
    "susceptibility_suite",
]
