"""Prompts go in, a finished run comes out; it is whole, is not made twice, and says what it is."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import keel
from keel import pipeline
from keel.errors import MissingArtifactError, StaleArtifactError, TooFewSamplesError
from keel.personas import MapSettings
from keel.prompts import PromptSettings, Question
from keel.store import RunFolder
from keel.testing import save_tiny_model
from keel.types import Sampling
from tests.pipeline.small import (
    INPUTS,
    LIBRARY,
    NAMES,
    ROLLOUTS,
    SETTINGS,
    files,
    open_small,
    outcome,
)


def without_answers(engine):
    """The engine, which fails the test if it is made to answer."""
    engine.generate = lambda *_, **__: pytest.fail("it answered again")
    return engine


def test_a_finished_run_opens_and_holds_every_answer_once(whole: Path):
    run = keel.open_run(whole)
    asked = Counter(rollout.prompt.role for rollout in run.rollouts())
    assert asked == {"default": 2 * 4, **dict.fromkeys(NAMES, 4)}
    ids = [rollout.prompt.id for rollout in run.rollouts()]
    assert len(set(ids)) == len(ids) == ROLLOUTS
    recorded = [id for batch in run.activation_batches() for id in batch.rollout_ids]
    assert recorded == [r.prompt.id for r in run.rollouts() if r.token_ids]
    assert [vector.role for vector in run.persona_map.vectors] == list(NAMES)


def test_the_manifest_lists_every_file_and_counts_what_is_there(whole: Path):
    run = keel.open_run(whole)
    assert set(run.manifest.files) == set(outcome(whole))
    tokens = [len(rollout.token_ids) for rollout in run.rollouts()]
    assert run.manifest.counts == {
        "rollouts": ROLLOUTS,
        "tokens": sum(tokens),
        "empty answers": tokens.count(0),
        "cut at the token limit": sum(r.finish == "length" for r in run.rollouts()),
        "roles kept": 4,
        "roles dropped": 0,
    }
    assert run.manifest.settings["prompts_from"] == "the tests"


def test_answers_cut_at_the_token_limit_are_counted_and_warned_of_above_a_half(whole: Path):
    """Six tokens are too few for most answers of a random model."""
    run = keel.open_run(whole)
    cut = run.manifest.counts["cut at the token limit"]
    assert cut > ROLLOUTS / 2
    assert any(f"{cut} of {ROLLOUTS} answers are cut" in text for text in run.persona_map.warnings)


def test_the_axis_is_the_default_mean_less_the_mean_of_role_means(whole: Path):
    """Worked out again from the activations on disk, role by role."""
    run = keel.open_run(whole)
    role_of = {rollout.prompt.id: rollout.prompt.role for rollout in run.rollouts()}
    means: dict[str, list[torch.Tensor]] = {}
    for batch in run.activation_batches():
        for id, mean_LD in zip(batch.rollout_ids, batch.means_BLD, strict=True):
            means.setdefault(role_of[id], []).append(mean_LD)
    of_role = {role: torch.stack(found).mean(0) for role, found in means.items()}
    roles_LD = torch.stack([of_role[name] for name in NAMES]).mean(0)
    assert torch.allclose(run.axis.vector, of_role["default"] - roles_LD, atol=1e-5)


def test_the_axis_says_which_model_and_which_map_it_is_of(whole: Path, model_folder: Path):
    axis = keel.open_run(whole).axis
    assert axis.identity.model_id == str(model_folder)
    assert axis.identity.weights_hash
    assert axis.provenance["judge"] is None
    assert axis.provenance["settings"]["min_count"] == 3


def test_a_finished_run_called_again_does_nothing_new(engine, run: RunFolder):
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*.*") if ".lock" not in p.name}
    expected = run.read().persona_map
    found = pipeline.extract(without_answers(engine), run, SETTINGS, inputs=INPUTS).persona_map
    assert torch.equal(found.axis.vector, expected.axis.vector)
    after = {p: p.stat().st_mtime_ns for p in run.path.rglob("*.*") if ".lock" not in p.name}
    assert after == before


def test_other_map_settings_map_again_without_answering_again(engine, run: RunFolder):
    """Once, a finished run was returned as it was, whatever map was asked for."""
    settings = replace(SETTINGS, mapping=replace(SETTINGS.mapping, components=2, min_count=4))
    before = outcome(run.path)
    found = pipeline.extract(without_answers(engine), run, settings, inputs=INPUTS).persona_map
    assert found.space.components_LKD.shape[1] == 2
    assert run.read().axis.provenance["settings"]["min_count"] == 4
    answers = {name: data for name, data in before.items() if "/" in name}
    assert answers.items() <= outcome(run.path).items()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampling": Sampling(7, 1.0)}, "sampling.max_new_tokens 6 → 7"),
        ({"sampling": Sampling(6, 0.9)}, "sampling.temperature 1.0 → 0.9"),
        ({"seed": 1}, "seed 0 → 1"),
        ({"prompts": PromptSettings(prompts_per_question=2)}, "prompts.prompts_per_question 1 → 2"),
    ],
)
def test_other_settings_on_the_same_folder_are_refused_by_name(engine, run, change, named):
    before = files(run.path)
    with pytest.raises(StaleArtifactError) as caught:
        pipeline.extract(engine, run, replace(SETTINGS, **change), inputs=INPUTS)
    assert named in str(caught.value)
    assert files(run.path) == before


def test_other_words_in_the_library_are_refused(engine, run: RunFolder):
    """As many prompts, under the same settings, and one question is another."""
    asked = (*LIBRARY.questions[:3], Question("Why?"))
    other = replace(INPUTS, library=replace(LIBRARY, questions=asked))
    with pytest.raises(StaleArtifactError, match=r"prompts \(24 → 24, or other words\)"):
        pipeline.extract(engine, run, SETTINGS, inputs=other)


def test_another_model_on_the_same_folder_is_refused(run: RunFolder, tmp_path: Path):
    other = open_small(save_tiny_model(tmp_path / "other", "llama", seed=1))
    with pytest.raises(StaleArtifactError, match="model: weights_hash"):
        pipeline.extract(other, run, SETTINGS, inputs=INPUTS)


def test_a_role_that_could_never_have_enough_answers_is_refused_before_any(engine, tmp_path: Path):
    """Four questions, one prompt each: 4 answers a role. Once, this took all answers to say."""
    settings = replace(SETTINGS, mapping=replace(SETTINGS.mapping, min_count=5))
    with pytest.raises(TooFewSamplesError, match="would answer 4 times, expected 5 or more"):
        pipeline.extract(engine, RunFolder(tmp_path / "run"), settings, inputs=INPUTS)
    assert not (tmp_path / "run").exists()


def test_without_activations_kept_the_map_is_the_same(engine, whole: Path, tmp_path: Path):
    folder = RunFolder(tmp_path / "thin")
    pipeline.extract(engine, folder, replace(SETTINGS, keep="none"), inputs=INPUTS)
    expected = outcome(whole)
    gone = {name for name in expected if name.startswith("activations/")}
    assert len(gone) == ROLLOUTS / 4
    assert outcome(folder.path) == {n: data for n, data in expected.items() if n not in gone}
    assert folder.read().manifest.activations == "none"


def test_activations_of_a_finished_run_can_be_let_go_later(engine, run: RunFolder):
    pipeline.extract(without_answers(engine), run, replace(SETTINGS, keep="none"), inputs=INPUTS)
    assert not list(run.path.glob("activations/*"))
    assert run.read().persona_map.default_count == 8


def test_without_activations_another_map_is_refused_and_the_old_one_stays(engine, run: RunFolder):
    run.thin("none")
    before = files(run.path)
    other = replace(SETTINGS, mapping=MapSettings(min_count=4))
    with pytest.raises(MissingArtifactError, match="of the activations in .* none was kept"):
        pipeline.extract(without_answers(engine), run, other, inputs=INPUTS)
    assert files(run.path) == before


def test_the_price_is_worked_out_by_hand(engine):
    """24 answers of at most 6 tokens, in batches of 4; each 4 layers × (32 × 2 + 4) + 8 bytes."""
    assert pipeline.price(without_answers(engine), SETTINGS, INPUTS) == {
        "roles": 4,
        "traits": 0,
        "answers": 24,
        "new tokens, at most": 144,
        "batches": 6,
        "disk for activations, bytes": 24 * 280,
    }


def test_the_disk_is_priced_about_right(engine, whole: Path):
    """Tensors alone are priced; each file's header comes on top."""
    priced = pipeline.price(engine, SETTINGS, INPUTS)["disk for activations, bytes"]
    sizes = [path.stat().st_size for path in whole.glob("activations/*")]
    headers = sum(_header_bytes(path) for path in whole.glob("activations/*"))
    empty = json.loads((whole / "manifest.json").read_bytes())["counts"]["empty answers"]
    assert sum(sizes) - headers == priced - empty * 280


def _header_bytes(path: Path) -> int:
    """A safetensors file begins with the length of its header, in 8 bytes."""
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def thinking(engine):
    """The engine, as if its template left thinking on."""
    facts = {**engine.template_facts(), "thinking": "left to the model"}
    engine.template_facts = lambda: facts
    return engine


@pytest.mark.parametrize(("spans", "is_said"), [("answer", False), ("both", True)])
def test_a_map_says_where_its_means_cover_more_than_floors_and_drift_do(
    tmp_path, model_folder, spans, is_said
):
    engine = thinking(open_small(model_folder))
    settings = replace(SETTINGS, spans=spans)
    pipeline.extract(engine, RunFolder(tmp_path / "run"), settings, inputs=INPUTS)
    warnings = keel.open_run(tmp_path / "run").persona_map.warnings
    assert any("--spans both" in warning for warning in warnings) is is_said


def test_means_over_another_span_are_not_mixed_into_a_run(engine, run: RunFolder):
    """Where thinking is off and none is sampled, a run names no span, as before there were any."""
    assert "spans" not in run.read().plan.settings
    with pytest.raises(StaleArtifactError, match="spans unset → both"):
        pipeline.extract(engine, run, replace(SETTINGS, spans="both"), inputs=INPUTS)


def test_answers_without_the_span_are_counted_and_left_out(engine, tmp_path):
    """None thinks: there is no mean of nothing, and too few for a map."""
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(TooFewSamplesError):
        pipeline.extract(engine, folder, replace(SETTINGS, spans="thinking"), inputs=INPUTS)
    run = folder.read()
    assert len(list(run.rollouts())) == ROLLOUTS
    assert not [id for batch in run.activation_batches() for id in batch.rollout_ids]


def test_a_map_of_plain_answers_has_nothing_to_say_of_thinking(whole: Path):
    assert not any("thinking" in warning for warning in keel.open_run(whole).persona_map.warnings)
