"""Answers -> labels: how far a rollout plays its role, and what else rubrics ask."""

from keel.judge.agreement import Agreement, agree
from keel.judge.channel import ChannelGrader
from keel.judge.clusters import ClusterGrader, Clustering
from keel.judge.endpoint import EndpointGrader, JudgingPrice
from keel.judge.guard import guarded
from keel.judge.heuristic import HeuristicGrader
from keel.judge.label_files import LabelFile, in_same_words, read_labels
from keel.judge.labelling import LabellingSession
from keel.judge.labels import LabelGrader
from keel.judge.likelihood import LikelihoodJudge
from keel.judge.opening import JudgeOptions, judge, known_judges, open_grader
from keel.judge.protocol import Judge
from keel.judge.roles import RubricJudge
from keel.judge.summary import JudgementSummary, summarise

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
    "guarded",
    "in_same_words",
    "judge",
    "known_judges",
    "open_grader",
    "read_labels",
    "summarise",
]
