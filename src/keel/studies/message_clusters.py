"""Messages sorted by what they say, and how far each sort moves the model.

A cluster's shift is measured on people whose messages did not make it: people are parted in two
halves, each half's messages make clusters into which the other half's are sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from keel.statistics import Codes, Floats
from keel.studies.prediction import MessageTable, innovations
from keel.studies.trajectories import person_interval
from keel.types import MessageCluster

MOST_CLUSTERS = 20
_MESSAGES_EACH = 25
_STARTS = 4
_EXAMPLES = 3

NameClusters = Callable[[Sequence[str], Codes, int], Sequence[str]]
"""Texts, each one's cluster, and how many there are -> a name for each."""


def cluster_messages(
    table: MessageTable, name_clusters: NameClusters, *, seed: int = 0
) -> tuple[MessageCluster, ...]:
    """Clusters of the later messages with the mean innovation of their answers, lowest first.

    Intervals are Student's over people, q-values Benjamini and Hochberg's (1995, J. Royal
    Statistical Society B 57:289). () where there are too few messages for two clusters in each
    half.
    """

    from scipy.stats import false_discovery_control

    later = table.later
    texts = [point.message for point in later.points]
    halves_N = np.zeros(len(later.points), dtype=np.intp)
    for domain in np.unique(later.domains_N):
        people = np.unique(later.people_N[later.domains_N == domain])
        halves_N[np.isin(later.people_N, people[1::2])] = 1
    distinct = [
        len({text for text, of in zip(texts, halves_N, strict=True) if of == half})
        for half in (0, 1)
    ]
    count = min(MOST_CLUSTERS, len(texts) // (2 * _MESSAGES_EACH), *distinct)
    if count < 2 or not later.is_enough:
        return ()
    members_N = _members(later.words_ND, halves_N, count, seed)
    innovation_N = innovations(table)
    names = name_clusters(texts, members_N, count)
    clusters: list[MessageCluster] = []
    p_values: list[float] = []
    for k in range(count):
        rows = np.flatnonzero(members_N == k)
        if not len(rows):
            continue
        speakers = [later.points[row].person for row in rows]
        middle_D = later.words_ND[rows].sum(0)
        nearest = rows[np.argsort(-(later.words_ND[rows] @ middle_D), kind="stable")]
        examples = tuple(dict.fromkeys(texts[row] for row in nearest))[:_EXAMPLES]
        shift = person_interval(innovation_N[rows], speakers)
        people_count = len(set(speakers))
        clusters.append(MessageCluster(names[k], examples, len(rows), people_count, shift, 1.0))
        p_values.append(_p_value(innovation_N[rows], speakers))
    q_values = false_discovery_control(p_values)
    known = [replace(c, q_value=float(q)) for c, q in zip(clusters, q_values, strict=True)]
    return tuple(sorted(known, key=lambda cluster: cluster.shift.value))


def _members(words_ND: Floats, halves_N: Codes, count: int, seed: int) -> Codes:
    """The cluster of each message, made by the other half.

    The halves' clusters are paired by their middles.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans

    made = [
        KMeans(count, n_init=_STARTS, random_state=seed + half).fit(words_ND[halves_N == half])
        for half in (0, 1)
    ]
    first_KD, second_KD = (fit.cluster_centers_ for fit in made)
    _, partner_K = linear_sum_assignment(-(first_KD @ second_KD.T))
    members_N = np.zeros(len(words_ND), dtype=np.intp)
    members_N[halves_N == 1] = made[0].predict(words_ND[halves_N == 1])
    by_second_N = made[1].predict(words_ND[halves_N == 0])
    members_N[halves_N == 0] = np.argsort(partner_K)[by_second_N]
    return members_N


def _p_value(innovation_N: Floats, speakers: Sequence[str]) -> float:
    """Two-sided p of no shift, by Student's t over people; 1 where they are too few."""
    from scipy.stats import ttest_1samp

    of_person: dict[str, list[float]] = {}
    for value, speaker in zip(innovation_N, speakers, strict=True):
        of_person.setdefault(speaker, []).append(float(value))
    means = [float(np.mean(values)) for values in of_person.values()]
    is_known = len(means) > 1 and np.ptp(means) > 0
    return float(ttest_1samp(means, 0).pvalue) if is_known else 1.0
