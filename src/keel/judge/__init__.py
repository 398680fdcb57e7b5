"""Answers -> labels: how far a rollout plays its role, and what else rubrics ask."""

from keel.judge.agreement import Agreement, agree
from keel.judge.clusters import ClusterGrader, Clustering, name_clusters
from keel.judge.endpoint import EndpointGrader, JudgingPrice
from keel.judge.engine_judges import ChannelGrader, LabelGrader, LikelihoodJudge
from keel.judge.heuristic import HeuristicGrader
from keel.judge.labelling import LabelFile, LabellingSession, comparable_labels, read_labels
from keel.judge.opening import JudgeOptions, judge, known_judges, open_grader
from keel.judge.rollouts import (
    Judge,
    JudgementSummary,
    RubricJudge,
    stop_if_judge_fails,
    summarise,
)

__all__ = [
    "Agreement",
    "ChannelGrader",
    "ClusterGrader",
    "Clustering",
    "EndpointGrader",
    "HeuristicGrader",
    "Judge",
    "JudgeOptions",
    "JudgementSummary",
    "JudgingPrice",
    "LabelFile",
    "LabelGrader",
    "LabellingSession",
    "LikelihoodJudge",
    "RubricJudge",
    "agree",
    "comparable_labels",
    "judge",
    "known_judges",
    "name_clusters",
    "open_grader",
    "read_labels",
    "stop_if_judge_fails",
    "summarise",
]
