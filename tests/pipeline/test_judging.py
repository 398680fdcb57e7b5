"""Judgements reach the map: which answers count is what the judge said, and is written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from keel import pipeline
from keel.errors import StaleArtifactError, TooFewSamplesError
from keel.judge import LikelihoodJudge
from keel.personas import MapSettings
from keel.store import RunFolder
from keel.types import Judgement, Rollout
from tests.pipeline.small import INPUTS, NAMES, ROLLOUTS, SETTINGS, outcome

PLAYING = MapSettings(label="playing", min_count=1)
THRESHOLD = 0.8
"""Nats per token: about half of the tiny model's answers in a role gain that much."""


@dataclass
class Strict:
    """A judge that finds some roles played and the others not; it remembers whom it judged."""

    played: tuple[str, ...]
    name: str = "strict"
    seen: list[str] = field(default_factory=list)

    def judge(self, rollouts: Sequence[Rollout]) -> Iterator[Judgement]:
        for rollout in rollouts:
            self.seen.append(rollout.prompt.id)
            label = "fully" if rollout.prompt.role in self.played else "none"
            yield Judgement(rollout.prompt.id, label, 1.0)


def test_a_map_of_those_that_play_is_made_of_them_alone(engine, tmp_path: Path):
    """Each role vector is the mean of the activations that the likelihood judge let through."""
    folder, judge = RunFolder(tmp_path / "run"), LikelihoodJudge(engine, THRESHOLD)
    settings = replace(SETTINGS, mapping=PLAYING)
    found = pipeline.extract(engine, folder, settings, inputs=INPUTS, judge=judge).persona_map
    run = folder.read()
    played = {id for id, said in run.judgements().items() if said.label == "fully"}
    assert 0 < len(played) < 16, "the threshold tells nothing apart"
    means: dict[str, list[torch.Tensor]] = {name: [] for name in NAMES}
    for batch in run.activation_batches():
        for id, mean_LD in zip(batch.rollout_ids, batch.means_BLD, strict=True):
            if id in played:
                means[id.split("/")[0]].append(mean_LD)
    assert {v.role: v.count for v in found.vectors} == {r: len(m) for r, m in means.items() if m}
    for vector in found.vectors:
        expected = torch.stack(means[vector.role]).mean(0)
        assert torch.allclose(vector.vector_LD, expected, atol=1e-5)
    assert run.axis.provenance["judge"] == f"likelihood-{THRESHOLD:g}"


def test_the_default_plays_no_role_and_counts_in_full(engine, run: RunFolder):
    summary, found = pipeline.judge(run, LikelihoodJudge(engine, THRESHOLD), mapping=PLAYING)
    assert summary.labels["unjudged"] == 8
    assert sum(summary.labels.values()) == ROLLOUTS
    assert found is not None
    assert found.persona_map.default_count == 8


def test_a_role_that_is_not_played_is_dropped_and_listed(engine, tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    judge = Strict(("pirate", "clerk", "nurse"))
    found = pipeline.extract(engine, folder, SETTINGS, inputs=INPUTS, judge=judge).persona_map
    assert found.dropped == {"ghost": 0}
    assert folder.read().manifest.counts["roles dropped"] == 1


def test_a_map_that_fails_for_want_of_played_roles_can_be_made_with_a_milder_judge(
    engine, whole: Path, tmp_path: Path
):
    """What was answered is not lost: the run goes on, and only judges and maps."""
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(TooFewSamplesError, match="0 of 4 roles have 3 rollouts"):
        pipeline.extract(engine, folder, SETTINGS, inputs=INPUTS, judge=Strict(()))
    assert not folder.is_finished
    engine.generate = lambda *_, **__: pytest.fail("it answered again")
    mild = Strict(NAMES, "mild")
    found = pipeline.extract(engine, folder, SETTINGS, inputs=INPUTS, judge=mild).persona_map
    assert len(found.vectors) == 4
    answers = {name: data for name, data in outcome(whole).items() if name.startswith("rollouts/")}
    assert answers.items() <= outcome(folder.path).items()


def test_judging_alone_leaves_the_map_as_it_is(run: RunFolder):
    before = outcome(run.path)
    _, found = pipeline.judge(run, Strict(NAMES), mapping=None)
    assert found is None
    assert before.items() <= outcome(run.path).items()
    assert set(run.read().judgements("strict")) == {r.prompt.id for r in run.read().rollouts()}


def test_no_answer_is_judged_twice(run: RunFolder):
    first, second = Strict(NAMES), Strict(NAMES)
    pipeline.judge(run, first, mapping=None)
    pipeline.judge(run, second, mapping=None)
    assert Counter(first.seen) == dict.fromkeys((r.prompt.id for r in run.read().rollouts()), 1)
    assert second.seen == []


def test_a_run_with_two_judges_is_mapped_by_the_one_that_was_asked(engine, run: RunFolder):
    """Once, extracting with a judge failed where `keel judge` had added another."""
    pipeline.judge(run, Strict(NAMES, "mild"), mapping=None)
    strict = Strict(NAMES[1:])
    found = pipeline.extract(engine, run, SETTINGS, inputs=INPUTS, judge=strict).persona_map
    assert found.dropped == {"ghost": 0}


def test_an_extraction_with_a_judge_is_not_made_twice_either(engine, run: RunFolder):
    """Not even where its activations are gone: once, the second call failed for want of them."""
    settings = replace(SETTINGS, keep="none")
    pipeline.extract(engine, run, settings, inputs=INPUTS, judge=Strict(NAMES))
    again = Strict(NAMES)
    before = outcome(run.path)
    pipeline.extract(engine, run, settings, inputs=INPUTS, judge=again)
    assert again.seen == []
    assert outcome(run.path) == before


def test_floors_of_an_axis_that_was_mapped_anew_are_refused(calibrated: RunFolder):
    pipeline.judge(calibrated, Strict(NAMES[1:]), mapping=PLAYING)
    with pytest.raises(StaleArtifactError, match="another axis .* keel calibrate"):
        _ = calibrated.read().floors


def test_counts_are_those_of_the_map_that_is_there(run: RunFolder):
    pipeline.judge(run, Strict(NAMES[1:]), mapping=PLAYING)
    assert run.read().manifest.counts["roles kept"] == 3
