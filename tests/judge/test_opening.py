"""Judges by their names."""

from __future__ import annotations

import pytest

from keel.errors import UsageError
from keel.judge import (
    ChannelGrader,
    EndpointGrader,
    HeuristicGrader,
    LabelGrader,
    open_grader,
)
from keel.settings import EndpointLimits
from keel.testing import FakeEngine
from keel.types import Grader

OWN = FakeEngine()
OTHERS = {"big": FakeEngine(seed=1)}


def opened(spec: str, **more: object) -> Grader:
    return open_grader(spec, engine=OWN, open_engine=OTHERS.__getitem__, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("heuristic", HeuristicGrader),
        ("self", LabelGrader),
        ("channel", ChannelGrader),
        ("local:big", LabelGrader),
        ("channel:big", ChannelGrader),
        ("openai:gpt-x", EndpointGrader),
    ],
)
def test_each_name_opens_its_judge(spec: str, kind: type):
    found = opened(spec)
    assert isinstance(found, kind)
    assert isinstance(found, Grader)


def test_self_is_the_runs_own_model_and_local_another():
    own, other = opened("self"), opened("local:big")
    assert isinstance(own, LabelGrader)
    assert isinstance(other, LabelGrader)
    assert (own.engine, other.engine) == (OWN, OTHERS["big"])


def test_address_and_limits_reach_the_endpoint_judge():
    limits = EndpointLimits(max_requests=3)
    found = opened("openai:m", url="http://127.0.0.1:1/v1", limits=limits)
    assert isinstance(found, EndpointGrader)
    assert (found.endpoint.model, found.endpoint.address, found.limits) == (
        "m",
        "http://127.0.0.1:1/v1",
        limits,
    )


@pytest.mark.parametrize(
    "spec", ["", "gpt-4", "openai", "openai:", "local", "local:", "self:big", "heuristic:x", "Self"]
)
def test_an_unknown_judge_is_refused_with_those_there_are(spec: str):
    with pytest.raises(UsageError, match="expected heuristic, self, channel, "):
        opened(spec)


@pytest.mark.parametrize("spec", ["heuristic", "self", "local:big"])
def test_an_address_for_a_judge_without_one_is_refused(spec: str):
    with pytest.raises(UsageError, match="has no address"):
        opened(spec, url="http://127.0.0.1:1/v1")


@pytest.mark.parametrize("spec", ["self", "channel"])
def test_the_runs_own_model_must_be_loaded(spec: str):
    with pytest.raises(UsageError, match="not loaded here; name one"):
        open_grader(spec)
