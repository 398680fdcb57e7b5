"""A run of traits, or of both: two maps of one set of answers, kept together, made once."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import keel
from keel import pipeline
from keel.errors import MissingArtifactError, StaleArtifactError, TooFewSamplesError
from keel.personas import TraitSettings
from keel.pipeline import ExtractInputs, axis
from keel.prompts import Trait, TraitPair
from keel.store import RunFolder
from keel.types import Judgement, Rollout, TraitSide
from tests.pipeline.small import INPUTS, LIBRARY, NAMES, SETTINGS, open_small, outcome, stopping_at

TRAITS = ("calm", "loud", "ghost", "odd")
"""One is called as a role is."""
BOTH = ExtractInputs(
    replace(
        LIBRARY,
        traits=tuple(
            Trait(n, tuple(TraitPair(f"Be {n}, {w}.", f"Do not be {n}, {w}.") for w in range(5)))
            for n in TRAITS
        ),
    ),
    "the tests",
)
SETTINGS_BOTH = replace(SETTINGS, what="both", traits=TraitSettings(min_pairs=1, judged_pairs=3))


@pytest.fixture(scope="module")
def both(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of roles and traits. To be read only."""
    path = tmp_path_factory.mktemp("runs") / "both"
    judge = Sided()
    pipeline.extract(
        open_small(model_folder), RunFolder(path), SETTINGS_BOTH, inputs=BOTH, judge=judge
    )
    return path


@pytest.fixture
def run(both: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(both, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@dataclass
class Sided:
    """Scores what was encouraged 90 and what was discouraged 20, but for some traits."""

    flat: tuple[str, ...] = ()
    name: str = "sided"

    def judge(self, rollouts: Sequence[Rollout]) -> Iterator[Judgement]:
        for rollout in rollouts:
            side = rollout.prompt.side
            high = side is not None and side.is_encouraged and side.trait not in self.flat
            yield Judgement(rollout.prompt.id, "fully", 90.0 if high else 20.0)


def test_every_side_of_every_trait_answers_every_question(both: Path):
    run = keel.open_run(both)
    asked = Counter(rollout.prompt.role for rollout in run.rollouts())
    sides = [TraitSide(name, way).role for name in TRAITS for way in (True, False)]
    assert asked == {"default": 8, **dict.fromkeys([*NAMES, *sides], 4)}
    assert run.manifest.counts["traits kept"] == 4
    assert run.manifest.counts["roles kept"] == 4


def test_trait_vectors_on_disk_are_those_of_the_activations_on_disk(both: Path):
    run = keel.open_run(both)
    role_of = {rollout.prompt.id: rollout.prompt.role for rollout in run.rollouts()}
    means: dict[str, list[torch.Tensor]] = {}
    for batch in run.activation_batches():
        for id, mean_LD in zip(batch.rollout_ids, batch.means_BLD, strict=True):
            means.setdefault(role_of[id], []).append(mean_LD)
    for vector in run.trait_map.vectors:
        more, less = (
            torch.stack(means[TraitSide(vector.trait, way).role]).mean(0) for way in (True, False)
        )
        assert torch.allclose(vector.vector_LD, more - less, atol=1e-5)


def test_traits_change_nothing_in_the_map_of_the_roles(engine, tmp_path: Path):
    """The same answers, mapped with the traits' among them and without."""
    plain, judge = RunFolder(tmp_path / "run"), Sided()
    found = pipeline.extract(engine, plain, SETTINGS_BOTH, inputs=BOTH, judge=judge)
    assert found.persona_map is not None
    run = plain.read()
    prompts = [r.prompt for r in run.rollouts() if r.prompt.side is None]
    from keel.personas import map_personas

    alone = map_personas(
        prompts,
        run.activation_batches,
        identity=run.identity,
        judgements=run.judgements(judge.name),
        settings=SETTINGS.mapping,
    )
    assert torch.allclose(alone.axis.vector, found.persona_map.axis.vector, atol=1e-6)
    assert {v.role for v in found.persona_map.vectors} == set(NAMES)


def test_a_run_called_again_reads_both_maps_and_writes_nothing(engine, run: RunFolder):
    before = outcome(run.path)
    engine.generate = lambda *_, **__: pytest.fail("it answered again")
    found = pipeline.extract(engine, run, SETTINGS_BOTH, inputs=BOTH, judge=Sided())
    assert found.trait_map is not None
    assert found.trait_map.traits == TRAITS
    assert outcome(run.path) == before


def test_an_interrupted_run_of_both_goes_on_to_the_same_result(
    engine, model_folder: Path, both: Path, tmp_path: Path
):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        pipeline.extract(
            engine,
            folder,
            SETTINGS_BOTH,
            inputs=BOTH,
            judge=Sided(),
            on_progress=stopping_at(20, KeyboardInterrupt()),
        )
    again = open_small(model_folder)
    pipeline.extract(again, folder, SETTINGS_BOTH, inputs=BOTH, judge=Sided())
    assert outcome(folder.path) == outcome(both)


def test_a_trait_that_no_answer_shows_is_dropped_and_counted(engine, run: RunFolder):
    _, found = pipeline.judge(
        run, Sided(("odd",), "milder"), mapping=SETTINGS.mapping, traits=SETTINGS_BOTH.traits
    )
    assert found is not None
    assert found.trait_map is not None
    assert found.trait_map.dropped == {"odd": 0}
    assert run.read().trait_map.dropped == {"odd": 0}
    assert run.read().manifest.counts["traits dropped"] == 1


def test_without_a_judge_some_pairs_are_compared_by_likelihood(engine, tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    settings = replace(SETTINGS_BOTH, traits=replace(SETTINGS_BOTH.traits, judged_pairs=2))
    calls: list[int] = []
    read = engine.read
    engine.read = lambda talks, **more: calls.append(len(talks)) or read(talks, **more)
    try:
        found: Any = pipeline.extract(engine, folder, settings, inputs=BOTH)
    except TooFewSamplesError:  # a random model may tell too few traits apart; what it read counts
        found = None
    # 4 traits × 2 sides × 2 pairs, with their prompts and without; no role, no default.
    assert sum(calls) == 2 * 16
    if found is not None:
        assert {v.judged for v in found.trait_map.vectors} == {2}
        assert found.persona_map.axis.provenance["judge"] is None


def test_a_run_of_traits_alone_has_no_axis_and_says_how_to_get_one(engine, tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    settings = replace(SETTINGS_BOTH, what="traits")
    found = pipeline.extract(engine, folder, settings, inputs=BOTH, judge=Sided())
    assert found.persona_map is None
    assert found.trait_map is not None
    assert found.trait_map.axis is None
    run = keel.open_run(folder.path)
    assert not run.has_map
    with pytest.raises(MissingArtifactError, match="no axis.safetensors; .* --what both"):
        _ = run.axis
    assert "Trait space" in pipeline.report(folder).read_text(encoding="utf-8")


def test_a_run_of_roles_has_no_traits_and_says_how_to_get_them(whole: Path):
    run = keel.open_run(whole)
    assert not run.has_traits
    with pytest.raises(MissingArtifactError, match="no traits.safetensors; .* --what both"):
        _ = run.trait_map


def test_too_few_pairs_are_refused_before_anything_is_answered(engine, tmp_path: Path):
    engine.generate = lambda *_, **__: pytest.fail("it answered")
    settings = replace(SETTINGS_BOTH, traits=TraitSettings(min_pairs=5))
    with pytest.raises(TooFewSamplesError, match="each trait would have 4 pairs .* 5 or more"):
        pipeline.extract(engine, RunFolder(tmp_path / "run"), settings, inputs=BOTH)


def test_the_same_rollouts_read_by_the_same_model_give_the_same_maps(
    engine, both: Path, tmp_path: Path
):
    folder, source = RunFolder(tmp_path / "again"), keel.open_run(both)
    found = pipeline.reread(engine, folder, source, SETTINGS_BOTH, judge=Sided())
    assert found.persona_map is not None
    assert found.trait_map is not None
    assert torch.allclose(found.persona_map.axis.vector, source.axis.vector, atol=2e-3)
    for mine, theirs in zip(found.trait_map.vectors, source.trait_map.vectors, strict=True):
        # The source's activations rest on disk as float16.
        assert torch.allclose(mine.vector_LD, theirs.vector_LD, atol=2e-3)
    told = pipeline.compare([source, keel.open_run(folder.path)])[0]
    assert told.axes is not None
    assert min(one.value for one in told.axes) > 0.999


def test_reading_that_was_interrupted_goes_on_and_other_rollouts_are_refused(
    engine, both: Path, whole: Path, tmp_path: Path
):
    folder, source = RunFolder(tmp_path / "again"), keel.open_run(both)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "reading rollouts":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.reread(engine, folder, source, SETTINGS_BOTH, judge=Sided(), on_progress=stop)
    assert folder.committed() == {0}
    pipeline.reread(engine, folder, source, SETTINGS_BOTH, judge=Sided())
    ids = [rollout.prompt.id for rollout in folder.read().rollouts()]
    assert ids == [rollout.prompt.id for rollout in source.rollouts()]
    with pytest.raises(StaleArtifactError, match="was begun with other inputs"):
        pipeline.reread(engine, folder, keel.open_run(whole), SETTINGS)


def test_calibration_is_of_default_and_roles_whatever_traits_were_asked(
    engine, run: RunFolder, monkeypatch: pytest.MonkeyPatch
):
    seen: list[str] = []

    def look(engine: Any, axis: Any, *, default: Any, roles: Any, **more: Any) -> Any:
        seen.extend(rollout.prompt.role for rollout in roles)
        raise KeyboardInterrupt

    monkeypatch.setattr(axis, "calibrate_floors", look)
    with pytest.raises(KeyboardInterrupt):
        pipeline.calibrate(engine, run)
    assert set(seen) == set(NAMES)


def test_inputs_without_traits_are_refused(engine, tmp_path: Path):
    with pytest.raises(TooFewSamplesError, match="0 traits, expected 3 or more"):
        pipeline.extract(engine, RunFolder(tmp_path / "run"), SETTINGS_BOTH, inputs=INPUTS)
