"""Capability tasks through lm-evaluation-harness: its tasks and scoring, Keel's arms."""

from keel.evaluate.capability.answering import (
    ChatTaskAnswerer,
    LocalTaskAnswerer,
    TaskAnswerer,
    task_answerer,
)
from keel.evaluate.capability.loading import PAPER_METRICS, UnknownTaskError
from keel.evaluate.capability.scoring import TaskGrader, task_evaluation
from keel.evaluate.capability.task import CapabilityTask, TaskSource, check_harness, open_task
from keel.settings import CapabilitySettings

PAPER_TASKS = tuple(PAPER_METRICS)
"""The paper's four."""

__all__ = [
    "PAPER_TASKS",
    "CapabilitySettings",
    "CapabilityTask",
    "ChatTaskAnswerer",
    "LocalTaskAnswerer",
    "TaskAnswerer",
    "TaskGrader",
    "TaskSource",
    "UnknownTaskError",
    "check_harness",
    "open_task",
    "task_answerer",
    "task_evaluation",
]
