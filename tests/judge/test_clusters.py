"""Answers sorted by what they say: planted kinds are found, whatever the order."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from keel.errors import TooFewSamplesError, UsageError
from keel.judge.clusters import EMPTY, ClusterGrader, cluster
from keel.types import Case, Conversation, Item, Message, Rubric, RubricLabel, Suite

KINDS = {
    "garden": "plant roses and tulips in the garden",
    "sea": "sail a ship across the stormy ocean",
    "shop": "sell bread and cakes to customers",
}
RUBRIC = Rubric("purpose", 1, "What is it for?", (RubricLabel("care", "To comfort."),))


def embed(texts):
    """Each kind of text is a corner; what else it says moves it a little."""
    rows = []
    for text in texts:
        chance = np.random.default_rng(sum(text.encode()))
        kind = [float(words.split()[-1] in text) for words in KINDS.values()]
        rows.append(10 * np.array(kind) + chance.normal(0, 0.3, len(KINDS)))
    return np.array(rows)


def said(count: dict[str, int]) -> dict[str, str]:
    """Case id -> answer, so many of each kind, no two the same."""
    return {
        f"{kind}/{n}": f"{KINDS[kind]} number {n}"
        for kind, many in count.items()
        for n in range(many)
    }


def cases(texts: dict[str, str], prefill: str = "My job is to ") -> list[Case]:
    return [
        Case(id, Conversation((Message("assistant", prefill + text),)), {"prefill": prefill})
        for id, text in texts.items()
    ]


COUNTS = {"sea": 12, "garden": 20, "shop": 7}


def graded(asked: list[Case], **more) -> tuple[ClusterGrader, dict[str, str]]:
    grader = ClusterGrader(embed, **{"clusters": 3, **more})
    return grader, {v.case_id: v.label for v in grader.grade(asked, RUBRIC)}


def test_answers_of_one_planted_kind_get_one_label_and_other_kinds_other_labels():
    _, labels = graded(cases(said(COUNTS)))
    kinds = {kind: {name for id, name in labels.items() if id.startswith(kind)} for kind in KINDS}
    assert all(len(found) == 1 for found in kinds.values())
    assert len(set.union(*kinds.values())) == 3


def test_a_cluster_is_named_by_words_that_its_answers_share_and_others_lack():
    grader, labels = graded(cases(said(COUNTS)))
    for kind, words in KINDS.items():
        name = labels[f"{kind}/0"]
        assert set(name.split("-")) <= set(words.split())
    # The largest first.
    assert grader.clustering.names[0] == labels["garden/0"]


def test_the_same_cases_get_the_same_labels_in_whatever_order():
    """So a run that was killed is judged anew with the same result; even where there is nothing
    but noise to sort, so that k-means ends where it happens to begin."""
    asked = cases(said(COUNTS))
    grader = ClusterGrader(noise, clusters=6)
    first = {v.case_id: v.label for v in grader.grade(asked, RUBRIC)}
    again = {v.case_id: v.label for v in grader.grade(Random(3).sample(asked, len(asked)), RUBRIC)}
    assert first == again


def noise(texts):
    """Each text somewhere, by its letters."""
    return np.array([np.random.default_rng(list(t.encode())).normal(size=20) for t in texts])


def test_only_the_models_own_words_are_sorted():
    """The beginning that all were given tells nothing; here it names every kind."""
    misleading = " ".join(KINDS.values())
    _, labels = graded(cases(said(COUNTS), prefill=misleading))
    assert len(set(labels.values())) == 3


def test_an_answer_without_words_is_in_no_cluster():
    _, labels = graded(cases({**said(COUNTS), "none": "  "}))
    assert labels["none"] == EMPTY


def test_planted_clusters_are_stable_and_apart_and_noise_is_neither():
    texts = list(said(COUNTS).values())
    found = cluster(texts, embed, clusters=3)
    assert found.stability > 0.95
    assert found.silhouette > 0.7
    chance = np.random.default_rng(0)
    noise = cluster(texts, lambda t: chance.normal(size=(len(t), 20)), clusters=3)
    assert noise.silhouette < 0.2
    assert noise.stability < 0.5


ITEMS = (Item("a", Conversation((Message("assistant", "I am"),))),)
SUITE = Suite("base-purpose", ITEMS, "purpose", "supportive purposes", ("care",))


def test_the_clusters_are_a_rubrics_labels_and_the_largest_is_counted():
    grader, labels = graded(cases(said(COUNTS)))
    scoring = grader.scoring(SUITE, RUBRIC)
    assert set(labels.values()) < {label.name for label in scoring.rubric.labels}
    assert scoring.suite.counted == (labels["garden/0"],)


def test_clusters_of_noise_come_with_a_warning_and_planted_ones_without():
    planted, _ = graded(cases(said(COUNTS)))
    chance = np.random.default_rng(0)
    noise = ClusterGrader(lambda t: chance.normal(size=(len(t), 20)), clusters=3)
    list(noise.grade(cases(said(COUNTS)), RUBRIC))
    assert not planted.scoring(SUITE, RUBRIC).warnings
    assert "come out otherwise" in noise.scoring(SUITE, RUBRIC).warnings[0]


def test_words_that_only_one_rambling_answer_repeats_name_no_cluster():
    texts = {**said(COUNTS), "sea/x": "sail the ocean " + "banana " * 50}
    grader, _ = graded(cases(texts))
    assert not any("banana" in name for name in grader.clustering.names)


def test_answers_without_any_word_still_get_clusters_with_names_of_their_own():
    numbers = [f"{n} {n * n}" for n in range(20)]
    chance = np.random.default_rng(1)
    found = cluster(numbers, lambda t: chance.normal(size=(len(t), 4)), clusters=3)
    assert found.names == ("cluster-1", "cluster-2", "cluster-3")


def test_too_few_answers_are_refused_with_a_number_that_would_do():
    with pytest.raises(TooFewSamplesError, match="clusters:2"):
        graded(cases(said({"sea": 3, "garden": 1})))


def test_nothing_can_be_said_of_clusters_before_grading():
    with pytest.raises(UsageError, match="grade all cases first"):
        _ = ClusterGrader(embed).clustering
