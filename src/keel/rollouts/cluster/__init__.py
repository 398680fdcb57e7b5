"""Many machines: a run's batches are distributed over engines on a Ray cluster.

A batch's answers depend on the run's seed, its number and its prompts alone, so it does not matter
which machine answers it, nor how often. All answers come back to one process, the only one that
writes. Ray is loaded only when a cluster is opened.
"""

from keel.rollouts.cluster.cluster import Cluster, open_cluster
from keel.settings import ClusterSettings

__all__ = ["Cluster", "ClusterSettings", "open_cluster"]
