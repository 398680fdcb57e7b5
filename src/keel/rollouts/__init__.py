"""Prompts -> rollouts with their response-mean activations, a batch at a time."""

from keel.rollouts.answer import AnsweredBatch, answer_prompts, batch_seed
from keel.rollouts.cluster import Cluster, ClusterSettings, open_cluster
from keel.rollouts.reread import read_rollouts

__all__ = [
    "AnsweredBatch",
    "Cluster",
    "ClusterSettings",
    "answer_prompts",
    "batch_seed",
    "open_cluster",
    "read_rollouts",
]
