"""Floors from a run hold the very model it was made on; what is read and replayed stays in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import keel
from keel import pipeline
from keel.errors import MissingArtifactError, ModelMismatchError, UsageError
from keel.settings import DriftSettings
from keel.store import RunFolder
from keel.testing import save_tiny_model
from keel.types import Conversation, Floor, Floors, Message, Sampling
from tests.pipeline.small import files, open_small

TALK = Conversation(
    (
        Message("system", "You are a ghost."),
        Message("user", "Who are you?"),
        Message("assistant", "I am who I was."),
        Message("user", "And the sea?"),
        Message("assistant", "It is wide, and you are in it."),
    ),
    "talk",
)
SHORT = DriftSettings(sampling=Sampling(max_new_tokens=6, temperature=0))


def test_floors_of_a_run_hold_the_model_it_was_made_on(engine, calibrated: RunFolder):
    """With `keel.steered` on the bare transformers model, at every layer of the band."""
    floors = keel.open_run(calibrated.path).floors
    heights: dict[int, torch.Tensor] = {}

    def watch(floor: Floor):
        def look(_module, _inputs, output):
            hidden_BTD = output[0] if isinstance(output, tuple) else output
            heights[floor.layer] = keel.geometry.project(hidden_BTD, floor.direction)

        return engine.decoder.blocks[floor.layer].register_forward_hook(look)

    ids = torch.tensor([engine.template.prompt_ids(TALK.with_user("Go on."))])
    with torch.no_grad(), keel.steered(engine.model, floors):
        hooks = [watch(floor) for floor in floors]
        engine.model(ids)
        [hook.remove() for hook in hooks]
    lowest = {floor.layer: float(heights[floor.layer].min()) for floor in floors}
    assert lowest == {f.layer: pytest.approx(f.value, abs=1e-3) for f in floors}


def test_the_chosen_setting_is_the_default_and_others_go_by_name(calibrated: RunFolder):
    run = keel.open_run(calibrated.path)
    assert run.floors.name == run.calibration.chosen
    assert set(run.settings) == {setting.name for setting in run.calibration.settings}
    assert all(run.floors_named(name).name == name for name in run.settings)


def test_a_floor_at_the_median_lies_above_half_of_the_tokens(calibrated: RunFolder):
    """Nominal firing of p50 is 0.50, give or take one of some hundred tokens."""
    median = next(s for s in calibrated.read().calibration.settings if s.percentile == 50)
    assert median.nominal_firing == {
        floor.layer: pytest.approx(0.5, abs=0.02) for floor in median.floors
    }


def test_drift_is_kept_in_the_run(engine, calibrated: RunFolder):
    other = Conversation(TALK.messages[1:3], "short")
    found = pipeline.drift(engine, calibrated, [TALK, other])
    assert [len(reading.turns) for reading in found] == [2, 1]
    kept = keel.open_run(calibrated.path).drift_readings()
    assert sorted(kept, key=lambda r: r.conversation_id) == sorted(
        found, key=lambda r: r.conversation_id
    )


def test_drift_can_be_read_before_there_are_floors(engine, run: RunFolder):
    (found,) = pipeline.drift(engine, run, [TALK])
    assert (found.layer, found.floor) == (run.read().axis.layer, None)


def test_an_unknown_setting_is_refused_and_those_near_it_named(engine, calibrated: RunFolder):
    name = calibrated.read().settings[0]
    with pytest.raises(UsageError, match=f"near it: .*{name}"):
        pipeline.drift(engine, calibrated, [TALK], DriftSettings(setting=f"{name}0"))
    assert calibrated.read().drift_readings() == ()


def test_a_replay_is_kept_in_the_run(engine, calibrated: RunFolder):
    found = pipeline.replay_conversation(engine, calibrated, TALK, SHORT)
    assert [turn.user for turn in found.turns] == ["Who are you?", "And the sea?"]
    assert keel.open_run(calibrated.path).replays() == (found,)


def test_greedy_draws_are_one_replay_which_is_not_made_twice(engine, calibrated: RunFolder):
    found = pipeline.replay_conversation(engine, calibrated, TALK, replace(SHORT, draws=5))
    assert (found.draws, [turn.spread for turn in found.turns]) == (1, [None, None])
    steps: list[int] = []
    report = lambda stage, done, total: steps.append(done)  # noqa: E731
    again = pipeline.replay_conversation(engine, calibrated, TALK, SHORT, on_progress=report)
    assert (again, steps) == (found, [2])  # both turns were there


def test_a_replay_of_a_conversation_without_a_question_is_refused_before_a_model_is_opened(
    calibrated: RunFolder,
):
    silent = Conversation((Message("assistant", "Hello."),), "silent")
    with pytest.raises(UsageError, match="'silent' has no user message"):
        pipeline.check_drift(calibrated.read(), [silent], SHORT, is_replayed=True)


def test_two_conversations_of_one_name_are_not_replayed_one_over_the_other(calibrated: RunFolder):
    with pytest.raises(UsageError, match="two conversations are called 'talk'"):
        pipeline.check_drift(calibrated.read(), [TALK, TALK], SHORT, is_replayed=True)


def test_no_capped_turn_of_a_replay_lies_below_its_floor(engine, calibrated: RunFolder):
    found = pipeline.replay_conversation(engine, calibrated, TALK, SHORT)
    assert found.floor is not None
    lowest = [min(turn.capped.token_projections) for turn in found.turns]
    assert all(height >= found.floor - 1e-3 for height in lowest)
    assert 0 < found.firing_rate <= 1


def test_a_replay_without_floors_says_how_to_make_them(engine, run: RunFolder):
    with pytest.raises(MissingArtifactError, match=f"keel calibrate {run.path}"):
        pipeline.replay_conversation(engine, run, TALK, SHORT)
    assert run.read().replays() == ()


def test_the_report_shows_what_the_run_holds_and_is_kept_in_it(engine, calibrated: RunFolder):
    pipeline.drift(engine, calibrated, [TALK])
    pipeline.replay_conversation(engine, calibrated, replace(TALK, id="replayed"), SHORT)
    page = pipeline.report(calibrated)
    html = page.read_text(encoding="utf-8")
    for shown in ("ghost", "nurse", "talk", "replayed", calibrated.read().floors.name):
        assert shown in html
    assert calibrated.read().manifest.files["report.html"]


def test_a_bare_run_can_be_reported_too(run: RunFolder):
    assert "pirate" in pipeline.report(run).read_text(encoding="utf-8")


def test_the_report_says_of_what_kind_roles_are_when_told(calibrated: RunFolder):
    inputs = pipeline.report_inputs(calibrated.read(), {"ghost": "spectral"})
    assert inputs.role_kinds == {"ghost": "spectral"}
    assert {"ghost", "pirate", "clerk", "nurse", "default"} <= set(inputs.samples)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory):
    """Another model of the very same shape."""
    path = tmp_path_factory.mktemp("models") / "stranger"
    return open_small(save_tiny_model(path, "llama", seed=1))


@pytest.mark.parametrize(
    "use",
    [
        lambda engine, run: pipeline.calibrate(engine, run),
        lambda engine, run: pipeline.drift(engine, run, [TALK]),
        lambda engine, run: pipeline.replay_conversation(engine, run, TALK, SHORT),
    ],
    ids=["calibrate", "drift", "replay"],
)
def test_the_axis_of_another_model_is_refused_and_nothing_written(stranger, calibrated, use):
    """Same shape, same tokenizer: only the weights tell them apart."""
    before = files(calibrated.path)
    with pytest.raises(ModelMismatchError, match="belongs to another model: weights_hash"):
        use(stranger, calibrated)
    assert files(calibrated.path) == before


def test_an_axis_of_another_shape_is_refused_in_words(calibrated: RunFolder, tmp_path: Path):
    narrow = open_small(save_tiny_model(tmp_path / "narrow", "llama", hidden=16))
    with pytest.raises(ModelMismatchError, match="4 layers × 32 .* against 4 × 16"):
        pipeline.drift(narrow, calibrated, [TALK])


def test_drift_is_read_at_the_axis_own_layer_or_the_capped_one_nearest(calibrated: RunFolder):
    """Nearest to 2 among 0 and 1 is 1; of 1 and 3, as near, the lower."""
    axis = replace(calibrated.read().axis, layer=2)

    def band(*layers: int) -> Floors:
        return Floors(tuple(Floor(n, axis.direction[n], 0.0) for n in layers))

    assert pipeline.drift_layer(axis, None) == 2
    assert pipeline.drift_layer(axis, band(0, 1)) == 1
    assert pipeline.drift_layer(axis, band(1, 3)) == 1
    assert pipeline.drift_layer(axis, band(2, 3)) == 2
