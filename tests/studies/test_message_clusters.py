"""Clusters of messages: those that move the model are told from those that do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from keel.judge import name_clusters
from keel.studies import MessageTable, cluster_messages
from tests.studies.worlds import embedding, talk

KINDS = ("paint the barn", "sell the goat", "count the stars")


def clusters(shift: float, people: int = 6):
    """Three kinds of message, the last of which moves the answer."""
    chance = np.random.default_rng(4)

    def level(domain, person, line, turn, previous):
        return shift * (line % 3 == 2) + 0.3 * chance.standard_normal()

    points = talk(level, people=people, topics=2)
    said = [replace(p, message=KINDS[int(p.message.split()[-1]) % 3]) for p in points]
    return cluster_messages(MessageTable.of(said, embedding()), name_clusters)


def test_the_cluster_that_moves_the_model_away_is_told_from_the_others():
    lowest, *_ = clusters(-1.0)
    assert lowest.effect == "away"
    assert lowest.examples[0] == "count the stars"
    assert set(lowest.name.split("-")) <= {"count", "stars"}
    assert lowest.shift.high < -0.3


def test_where_no_message_moves_it_no_cluster_is_told_apart():
    assert {cluster.effect for cluster in clusters(0.0)} == {"not told apart"}


def test_too_few_messages_make_no_clusters():
    assert clusters(-1.0, people=1) == ()
