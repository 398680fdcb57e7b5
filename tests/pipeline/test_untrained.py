"""Models of a run's shape with random weights, extracted on its prompts, are its AUC's null."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keel import pipeline
from keel.engines import open_untrained
from keel.errors import ModelMismatchError, UsageError
from keel.settings import NullSettings
from keel.store import RunFolder
from keel.testing import FakeEngine, save_tiny_model
from tests.pipeline.small import INPUTS, SETTINGS, files, open_small

NULL = NullSettings(seeds=2, roles=4, questions=4)


def stopping(when: str, error: BaseException):
    """Progress that raises at a stage's last step but one."""

    def progress(stage: str, done: int, total: int) -> None:
        if stage == when and done >= total - 1:
            raise error

    return progress


def test_a_run_of_a_random_model_is_its_own_null(engine, run: RunFolder):
    """The tiny model's weights are those of seed 0, so that the first untrained model is it."""
    persona_map = run.read().persona_map
    at = persona_map.quality[persona_map.axis.layer]
    first = pipeline.measure_untrained(engine, run, NULL).models[0]
    assert (first.layer, first.auc) == (at.layer, pytest.approx(at.auc.value, abs=1e-6))
    assert first.d_prime == pytest.approx(at.d_prime.value, abs=1e-4)


def test_the_null_is_kept_in_the_run_and_its_work_is_not(engine, run: RunFolder):
    null = pipeline.measure_untrained(engine, run, NULL)
    assert run.read().untrained == null
    assert [model.seed for model in null.models] == [0, 1]
    assert null.models[0].auc != null.models[1].auc
    assert (null.roles, null.questions, null.answers, null.max_new_tokens) == (4, 4, 24, 6)
    assert not (run.path / "untrained").exists()
    assert run.is_finished


def test_an_interrupted_null_goes_on_to_the_same_values(engine, run: RunFolder, tmp_path):
    expected = pipeline.measure_untrained(engine, run, NULL)
    (run.path / "untrained.json").unlink()
    run.finish(counts=run.read().manifest.counts)
    for stage in ("untrained 0: answering and recording", "untrained 1: mapping persona space"):
        with pytest.raises(ZeroDivisionError):
            pipeline.measure_untrained(
                engine, run, NULL, on_progress=stopping(stage, ZeroDivisionError())
            )
    assert [model.seed for model in run.read().untrained.models] == [0]
    assert pipeline.measure_untrained(engine, run, NULL) == expected


def test_seeds_that_are_there_are_not_measured_again(engine, run: RunFolder):
    pipeline.measure_untrained(engine, run, replace(NULL, seeds=1))
    stages = []
    null = pipeline.measure_untrained(
        engine, run, NULL, on_progress=lambda stage, done, total: stages.append(stage[:11])
    )
    assert set(stages) == {"untrained 1"}
    assert [model.seed for model in null.models] == [0, 1]
    before = files(run.path)
    assert pipeline.measure_untrained(engine, run, NULL) == null
    assert files(run.path) == before


def test_other_settings_measure_anew_over_half_done_work(engine, run: RunFolder):
    stop = stopping("untrained 0: answering and recording", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        pipeline.measure_untrained(engine, run, NULL, on_progress=stop)
    null = pipeline.measure_untrained(engine, run, replace(NULL, seeds=1, roles=3))
    assert (null.roles, len(null.models)) == (3, 1)


def test_a_run_that_read_answers_is_held_against_models_that_read_them(
    engine, run: RunFolder, tmp_path
):
    folder = RunFolder(tmp_path / "read")
    made = pipeline.reread(engine, folder, run.read(), SETTINGS).persona_map
    null = pipeline.measure_untrained(engine, folder, replace(NULL, seeds=1))
    assert null.max_new_tokens is None
    auc = made.quality[made.axis.layer].auc.value
    assert null.models[0].auc == pytest.approx(auc, abs=1e-6)


def test_an_untrained_model_leaves_the_trained_one_and_the_callers_draws_alone(engine):
    before = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}
    state = torch.get_rng_state()
    other = open_untrained(engine, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[n]) for n, tensor in engine.model.state_dict().items())
    assert not torch.equal(
        other.model.get_input_embeddings().weight, engine.model.get_input_embeddings().weight
    )
    assert other.identity.weights_hash == ""
    assert "random weights, seed 5" in other.identity.model_id


def test_an_engine_without_a_model_in_this_process_is_refused(run: RunFolder):
    with pytest.raises(UsageError, match="--engine transformers, or leave out --null"):
        pipeline.measure_untrained(FakeEngine(), run, NULL)


def test_another_model_than_the_runs_is_refused(run: RunFolder, tmp_path):
    other = open_small(save_tiny_model(tmp_path / "other", "gpt2"))
    with pytest.raises(ModelMismatchError):
        pipeline.measure_untrained(other, run, NULL)


def test_starting_a_run_over_deletes_its_null(engine, run: RunFolder):
    pipeline.measure_untrained(engine, run, replace(NULL, seeds=1))
    run.clear()
    pipeline.extract(engine, run, SETTINGS, inputs=INPUTS)
    assert run.read().untrained is None


def test_questions_are_drawn_so_that_roles_keep_several_system_prompts():
    """Equal steps of five would meet each role under one of its five prompts, in rotation."""
    from keel.prompts import PromptSettings, load_library, make_prompts, sample_prompts

    settings = PromptSettings(roles=12, questions=60, prompts_per_question=1)
    prompts = make_prompts(load_library(), settings, model_name="M")
    drawn = sample_prompts(prompts, roles=4, questions=12, seed=0)
    assert len(drawn) == 12 * (4 + 5)
    systems = {p.system_index for p in drawn if p.is_role}
    assert len(systems) >= 4
