"""Judges by their names."""

from __future__ import annotations

import pytest

from keel.errors import UsageError
from keel.judge import (
    ChannelGrader,
    ClusterGrader,
    EndpointGrader,
    HeuristicGrader,
    LabelGrader,
    known_judges,
    open_grader,
)
from keel.settings import EndpointLimits
from keel.testing import FakeEngine
from keel.types import Grader, Rubric, Verdict
from tests.judge.answers import said

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
    "spec",
    [
        "",
        "gpt-4",
        "openai",
        "openai:",
        "local",
        "local:",
        "self:big",
        "heuristic:x",
        "Self",
        "self:",
    ],
)
def test_an_unknown_judge_is_refused_with_those_there_are(spec: str):
    with pytest.raises(UsageError, match="expected ") as refused:
        opened(spec)
    known = str(refused.value).partition("expected ")[2].split(", ")
    builtin = {"heuristic", "self", "local:MODEL", "channel[:MODEL]", "clusters[:N]"}
    assert builtin | {"openai:MODEL"} <= set(known)


@pytest.mark.parametrize("spec", ["heuristic", "self", "local:big"])
def test_an_address_for_a_judge_without_one_is_refused(spec: str):
    with pytest.raises(UsageError, match="has no address"):
        opened(spec, url="http://127.0.0.1:1/v1")


@pytest.mark.parametrize("spec", ["self", "channel"])
def test_the_runs_own_model_must_be_loaded(spec: str):
    with pytest.raises(UsageError, match="not loaded here; name one"):
        open_grader(spec)


LOUDNESS = """
from keel.judge import judge
from keel.types import Grader, Verdict

@judge("{name}[:WORD]")
class Loudness(Grader):
    name = "{name}-1"
    def __init__(self, options):
        self.word = options.argument
    def grade(self, cases, rubric):
        for case in cases:
            yield Verdict(case.id, self.word or "loud")
"""


def verdicts_of(spec: str) -> list[Verdict]:
    return list(open_grader(spec).grade([said("1", "HELLO")], Rubric("r", 1, "", low=0, high=1)))


def test_a_judge_that_a_users_code_registers_is_opened_by_its_name():
    exec(LOUDNESS.format(name="users_own"), {"__name__": "users_code"})
    assert [v.label for v in verdicts_of("users_own")] == ["loud"]
    assert [v.label for v in verdicts_of("users_own:soft")] == ["soft"]
    assert "users_own[:WORD]" in known_judges()


def test_a_judge_of_an_installed_package_is_opened_by_its_entry_point(tmp_path, monkeypatch):
    (tmp_path / "keel_loudness.py").write_text(LOUDNESS.format(name="packaged"), encoding="utf-8")
    info = tmp_path / "keel_loudness-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: keel-loudness\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[keel.judges]\npackaged = keel_loudness\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "packaged" in known_judges()
    assert [v.label for v in verdicts_of("packaged")] == ["loud"]


def test_a_users_judge_cannot_take_the_name_of_another():
    with pytest.raises(UsageError, match="'heuristic' of .* is registered already"):
        exec(LOUDNESS.format(name="heuristic"), {"__name__": "users_code"})
    assert isinstance(opened("heuristic"), HeuristicGrader)


@pytest.mark.parametrize(("spec", "number"), [("clusters", 8), ("clusters:12", 12)])
def test_clusters_are_asked_for_by_their_number(spec: str, number: int):
    found = opened(spec, load_embedder=lambda: len)
    assert isinstance(found, ClusterGrader)
    assert found.clusters == number


@pytest.mark.parametrize("spec", ["clusters:1", "clusters:many"])
def test_a_number_of_clusters_that_is_none_is_refused(spec: str):
    with pytest.raises(UsageError, match="no number of clusters"):
        opened(spec, load_embedder=lambda: len)
    with pytest.raises(UsageError, match=r"judge is 'clusters:', expected .*clusters\[:N\]"):
        opened("clusters:")


def test_clusters_need_what_embeds_answers():
    with pytest.raises(UsageError, match="sorts the answers of an evaluation"):
        opened("clusters")
