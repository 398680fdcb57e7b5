"""Prompts -> rollouts with their response-mean activations, a batch at a time."""

from keel.rollouts.answer import RolloutBatch, answer_prompts, batch_seed, read_rollouts
from keel.rollouts.cluster import Cluster, open_cluster
from keel.settings import ClusterSettings

__all__ = [
    "Cluster",
    "ClusterSettings",
    "RolloutBatch",
    "answer_prompts",
    "batch_seed",
    "open_cluster",
    "read_rollouts",
]
