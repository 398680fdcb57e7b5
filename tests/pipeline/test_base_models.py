"""Base suites through the pipeline: begun answers gone on with, clusters, and another's axis."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from keel import pipeline
from keel.errors import ModelMismatchError
from keel.evaluate import EngineAnswerer, base_purpose_suite, parse_arms
from keel.judge import ClusterGrader
from keel.pipeline import Evaluation
from keel.store import RunFolder
from keel.testing import save_tiny_model
from keel.types import EvalResult, Rubric, RubricLabel, Sampling
from tests.pipeline.small import open_small

PREFILLS = ["My job is to", "I exist to", "I am here to"]
SUITE = base_purpose_suite(
    PREFILLS, completions=4, sampling=Sampling(max_new_tokens=6, temperature=1.0)
)
RUBRIC = Rubric("purpose", 1, "What for?", (RubricLabel("care", "."), RubricLabel("faith", ".")))


def embed(texts):
    """By the number of letters: two kinds of text, long ones and short ones."""
    lengths = [len(text) for text in texts]
    middle = float(np.median(lengths))
    return np.array([[1.0, 0.001 * n] if n > middle else [0.001 * n, 1.0] for n in lengths])


def evaluated(folder: RunFolder, model: Path, arms: str = "none,steered:-2") -> EvalResult:
    engine, run = open_small(model), folder.read()
    given = pipeline.arms_of(engine, run, parse_arms(arms))
    grader = ClusterGrader(embed, clusters=2)
    answerer = EngineAnswerer(engine, run.axis)
    return pipeline.evaluate(folder, Evaluation(SUITE, given, answerer, grader, RUBRIC))


def test_answers_are_sorted_into_clusters_whose_shares_are_told(run, model_folder):
    result = evaluated(run, model_folder)
    names = [name for name, share in result.arm("none").labels.items() if share]
    assert 1 <= len(names) <= 2
    assert not {"care", "faith"} & set(names)
    for arm in result.arms:
        assert sum(arm.labels.values()) == pytest.approx(1)
    assert sum(s.value for s in result.arm("steered:-2").label_shifts.values()) == pytest.approx(0)
    assert result.settings["clusters"] == "2"
    assert result.measure.startswith("answers in the largest cluster")


def test_an_arm_that_comes_later_has_all_answers_sorted_anew(run, model_folder, tmp_path):
    """Clusters of a part are other clusters: both ways must give the same result."""
    shutil.copytree(run.path, tmp_path / "twin")
    at_once = evaluated(RunFolder(tmp_path / "twin"), model_folder)
    evaluated(run, model_folder, "none")
    later = evaluated(run, model_folder, "none,steered:-2")
    assert later == at_once


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "other", "llama", seed=5)


def test_an_axis_is_transferred_to_a_model_of_the_same_shape_and_both_are_named(run, other_model):
    engine, axis = open_small(other_model), run.read().axis
    with pytest.raises(ModelMismatchError, match="another model"):
        pipeline.arms_of(engine, run.read(), parse_arms("none"))
    transferred = pipeline.transfer_axis(axis, engine)
    arms = pipeline.arms_of(
        engine, run.read(), parse_arms("none,steered:-1"), axis=transferred.axis
    )
    assert len(arms) == 2
    assert transferred.axis.vector is axis.vector
    assert engine.identity.model_id in transferred.facts["answers by"]
    assert axis.identity.model_id in transferred.facts["axis found on"]
    assert axis.identity.model_id in transferred.warning


def test_an_axis_is_not_transferred_to_a_model_of_another_shape(run, engine):
    engine.identity = replace(engine.identity, layers=engine.identity.layers + 1)
    with pytest.raises(ModelMismatchError, match="cannot be transferred"):
        pipeline.transfer_axis(run.read().axis, engine)
