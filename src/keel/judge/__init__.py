"""Rollout -> Judgement: how far an answer plays its role."""

from keel.judge.likelihood import LikelihoodJudge
from keel.judge.protocol import Judge
from keel.judge.summary import JudgementSummary, summarise

__all__ = ["Judge", "JudgementSummary", "LikelihoodJudge", "summarise"]
