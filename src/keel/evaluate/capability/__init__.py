"""Capability tasks through lm-evaluation-harness: its tasks and scoring, Keel's arms."""

from keel.evaluate.capability.asking import TaskAnswerer
from keel.evaluate.capability.chats import ChatTaskAnswerer
from keel.evaluate.capability.finding import PAPER_METRICS
from keel.evaluate.capability.here import EngineTaskAnswerer
from keel.evaluate.capability.opening import check_harness, open_task
from keel.evaluate.capability.results import JUDGE, task_result, task_verdicts
from keel.evaluate.capability.tasks import AnsweredBatch, CapabilityTask, Score
from keel.settings import CapabilitySettings

__all__ = [
    "JUDGE",
    "PAPER_METRICS",
    "AnsweredBatch",
    "CapabilitySettings",
    "CapabilityTask",
    "ChatTaskAnswerer",
    "EngineTaskAnswerer",
    "Score",
    "TaskAnswerer",
    "check_harness",
    "open_task",
    "task_result",
    "task_verdicts",
]
