"""Many machines: a run's batches shared out over engines on a Ray cluster.

What a batch answers depends on the run's seed, its number and its prompts alone, so it does not
matter which machine answers it, nor how often. Answers come back to one process, which alone
writes. Nothing here is loaded until a cluster is opened.
"""

from keel.rollouts.cluster.cluster import Cluster, open_cluster
from keel.settings import ClusterSettings

__all__ = ["Cluster", "ClusterSettings", "open_cluster"]
