"""A run folder: begun once, filled batch by batch, finished by its manifest, added to later."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from keel.errors import (
    CorruptArtifactError,
    MissingArtifactError,
    NotFiniteError,
    StaleArtifactError,
    StorageError,
    UsageError,
)
from keel.store import RunFolder, RunPlan, open_run
from keel.store.atomic import sha256_of
from keel.types import (
    ActivationBatch,
    AssistantAxis,
    Calibration,
    Conversation,
    DriftReading,
    Judgement,
    Message,
    ModelIdentity,
    PersonaMap,
    Prompt,
    Replay,
    Rollout,
)

BATCHES = ((0, 2), (1, 4), (3, 5))


@pytest.fixture
def plan(identity: ModelIdentity) -> RunPlan:
    settings = {"scale": "smoke", "sampling": {"temperature": 0.7, "top_p": 0.9}, "roles": (1, 2)}
    return RunPlan(identity, settings, 7, BATCHES, {"system": "merged"}, "keel extract tiny -o run")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def finished(
    folder: RunFolder,
    plan: RunPlan,
    prompts: list[Prompt],
    rollouts: list[Rollout],
    activations: ActivationBatch,
    found_map: PersonaMap,
) -> RunFolder:
    with folder.lock():
        fill(folder, folder.begin(plan, prompts), rollouts, activations)
        folder.save_map(found_map)
        folder.finish(counts={"rollouts": 6, "roles_dropped": 1})
    return folder


def fill(
    folder: RunFolder, plan: RunPlan, rollouts: list[Rollout], activations: ActivationBatch
) -> None:
    for number, places in enumerate(plan.batches):
        rows = torch.tensor(places)
        ids = tuple(activations.rollout_ids[p] for p in places)
        part = ActivationBatch(ids, activations.means_BLD[rows], activations.norms_BL[rows])
        folder.commit_batch(number, [rollouts[p] for p in places], part)


# --- begin -----------------------------------------------------------------------------------


def test_beginning_again_with_the_same_inputs_goes_on_with_the_first_plan_of_batches(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt]
):
    folder.begin(plan, prompts)
    other_memory = replace(plan, batches=((0, 1, 2, 3, 4, 5),), command="")
    assert folder.begin(other_memory, prompts).batches == BATCHES


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 8}, "seed 7 → 8"),
        (
            {"settings": {"scale": "smoke", "sampling": {"temperature": 1.0, "top_p": 0.9}}},
            r"roles \[1, 2\] → unset; sampling.temperature 0.7 → 1.0",
        ),
        ({"identity": ModelIdentity("tiny", 4, 6, weights_hash="bb")}, "model: weights_hash aa"),
        ({"identity": ModelIdentity("huge", 9, 6)}, "model: 4 layers × 6"),
        (
            {"identity": ModelIdentity("tiny", 4, 6, "r1", "aa", dtype="bfloat16")},
            "dtype float32 →",
        ),
        ({"identity": ModelIdentity("tiny", 4, 6, "r2", dtype="float32")}, "revision r1 → r2"),
    ],
)
def test_other_inputs_are_refused_saying_what_differs(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt], change: dict[str, object], words: str
):
    folder.begin(plan, prompts)
    with pytest.raises(StaleArtifactError, match=words) as raised:
        folder.begin(replace(plan, **change), prompts)
    assert "choose another folder with -o, or start it over with --overwrite" in str(raised.value)


def test_one_other_word_in_a_prompt_is_other_inputs(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt]
):
    folder.begin(plan, prompts)
    changed = [
        *prompts[:-1],
        replace(prompts[-1], conversation=Conversation((Message("user", "Who are  you?"),))),
    ]
    with pytest.raises(StaleArtifactError, match=r"prompts \(6 → 6, or other words\)"):
        folder.begin(plan, changed)


def test_the_same_weights_under_another_name_are_the_same_model(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt]
):
    folder.begin(plan, prompts)
    moved = replace(plan, identity=replace(plan.identity, model_id="/copy/of/tiny", revision=""))
    assert folder.begin(moved, prompts) == replace(
        plan, settings={**plan.settings, "roles": [1, 2]}
    )


@pytest.mark.parametrize(
    "batches", [((0, 1, 2, 3, 4),), ((0, 1, 2), (2, 3, 4, 5)), ((*range(7),),)]
)
def test_batches_that_do_not_hold_every_prompt_once_are_refused(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt], batches: tuple[tuple[int, ...], ...]
):
    with pytest.raises(UsageError, match="each of the 6 prompts once"):
        folder.begin(replace(plan, batches=batches), prompts)
    assert not folder.is_begun


def test_a_damaged_plan_is_not_taken_for_a_new_folder(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt]
):
    folder.begin(plan, prompts)
    path = folder.path / "plan.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(CorruptArtifactError, match=r"plan\.json is not"):
        folder.begin(plan, prompts)


# --- batches ---------------------------------------------------------------------------------


def test_rollouts_and_activations_come_back_in_the_order_of_batches(
    folder: RunFolder,
    plan: RunPlan,
    prompts: list[Prompt],
    rollouts: list[Rollout],
    activations: ActivationBatch,
):
    fill(folder, folder.begin(plan, prompts), rollouts, activations)
    assert folder.committed() == {0, 1, 2}
    assert list(folder.read().rollouts()) == [rollouts[p] for b in BATCHES for p in b]
    batches = list(folder.read().activation_batches())
    assert [b.rollout_ids for b in batches] == [
        tuple(rollouts[p].prompt.id for p in places) for places in BATCHES
    ]
    order = torch.tensor([p for b in BATCHES for p in b])
    assert torch.equal(torch.cat([b.means_BLD for b in batches]), activations.means_BLD[order])
    assert torch.equal(torch.cat([b.norms_BL for b in batches]), activations.norms_BL[order])


def test_more_than_a_hundred_thousand_batches_keep_their_order(
    folder: RunFolder, rollouts: list[Rollout]
):
    for number in (100_000, 99_999, 2):
        folder.commit_batch(number, [rollouts[number % 5]], None)
    assert folder.committed() == {2, 99_999, 100_000}
    # 2 % 5, 99_999 % 5, 100_000 % 5
    assert list(folder.read().rollouts()) == [rollouts[2], rollouts[4], rollouts[0]]


def test_a_batch_without_its_rollouts_is_not_counted(
    folder: RunFolder, rollouts: list[Rollout], activations: ActivationBatch
):
    folder.commit_batch(0, rollouts, activations)
    (folder.path / "rollouts/batch-00000.jsonl").unlink()
    (folder.path / "rollouts/.batch-00001.jsonl.0a0a0a0a.tmp").write_text("{")
    assert folder.committed() == set()
    assert list(folder.read().activation_batches()) == []


def test_activations_are_on_disk_before_the_rollouts_that_commit_them(
    folder: RunFolder, rollouts: list[Rollout], activations: ActivationBatch
):
    (folder.path / "rollouts").mkdir(parents=True)
    (folder.path / "rollouts/batch-00000.jsonl").mkdir()  # the second write cannot succeed
    with pytest.raises(StorageError):
        folder.commit_batch(0, rollouts, activations)
    assert (folder.path / "activations/batch-00000.safetensors").exists()


def test_activations_of_an_interrupted_attempt_do_not_join_a_batch_that_has_none(
    folder: RunFolder, rollouts: list[Rollout], activations: ActivationBatch
):
    folder.commit_batch(0, rollouts, activations)
    folder.commit_batch(0, [replace(rollout, token_ids=()) for rollout in rollouts], None)
    assert list(folder.read().activation_batches()) == []


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"short")])
def test_lost_activations_are_not_passed_over_and_can_be_made_again(
    folder: RunFolder, rollouts: list[Rollout], activations: ActivationBatch, damage: Callable
):
    folder.commit_batch(3, rollouts, activations)
    damage(folder.path / "activations/batch-00003.safetensors")
    remedy = r"delete .*rollouts/batch-00003\.jsonl too, and run the extraction again"
    with pytest.raises((MissingArtifactError, CorruptArtifactError), match=remedy):
        list(folder.read().activation_batches())
    (folder.path / "rollouts/batch-00003.jsonl").unlink()
    assert folder.committed() == set()


def test_a_batch_with_nan_is_not_committed(
    folder: RunFolder, rollouts: list[Rollout], activations: ActivationBatch
):
    activations.means_BLD[1, 0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="rollout pirate/p0/q1 "):
        folder.commit_batch(0, rollouts, activations)
    assert folder.committed() == set()


def test_activations_of_strangers_are_refused(
    folder: RunFolder, rollouts: list[Rollout], activations: ActivationBatch
):
    with pytest.raises(UsageError, match=r"activations of \['long'\] belong to no rollout"):
        folder.commit_batch(0, rollouts[:5], activations)


def test_a_damaged_rollout_names_its_file(folder: RunFolder, rollouts: list[Rollout]):
    folder.commit_batch(0, rollouts, None)
    path = folder.path / "rollouts/batch-00000.jsonl"
    path.write_text(path.read_text().replace('"finish"', '"finsh"', 1))
    with pytest.raises(CorruptArtifactError, match=r"batch-00000\.jsonl.*finish"):
        list(folder.read().rollouts())
    path.write_text(path.read_text()[:-5])
    with pytest.raises(CorruptArtifactError, match=r"line 6 is cut off"):
        list(open_lines(folder))


def open_lines(folder: RunFolder) -> list[object]:
    from keel.store.reading import read_jsonl

    return list(read_jsonl(folder.path / "rollouts/batch-00000.jsonl"))


# --- judgements ------------------------------------------------------------------------------


def test_judgements_are_added_and_the_last_one_holds(folder: RunFolder):
    folder.save_judgements("local", [Judgement("a", "fully", 3.0), Judgement("b", "none", 0)])
    folder.save_judgements("local", [Judgement("a", "unjudged", None, "unparsed")])
    expected = {"a": Judgement("a", "unjudged", None, "unparsed"), "b": Judgement("b", "none", 0.0)}
    assert folder.read().judgements() == expected
    assert folder.read().judgements("local") == expected


def test_a_judgement_torn_by_a_kill_is_not_counted(folder: RunFolder):
    folder.save_judgements("local", [Judgement("a", "fully", 3.0), Judgement("b", "none", 0)])
    path = folder.path / "judgements/local.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert set(folder.read().judgements()) == {"a"}
    folder.save_judgements("local", [Judgement("c", "none", 0)])
    assert set(folder.read().judgements()) == {"a", "c"}


def test_judges_whose_names_are_no_file_names_are_kept_apart(folder: RunFolder):
    folder.save_judgements("openai/gpt", [Judgement("a", "fully")])
    folder.save_judgements("openai:gpt", [Judgement("a", "none")])
    assert folder.read().judgements("openai/gpt")["a"].label == "fully"
    assert folder.read().judgements("openai:gpt")["a"].label == "none"
    assert folder.read().judgements("other") == {}
    with pytest.raises(UsageError, match="has 2 judges .*name one"):
        folder.read().judgements()


def test_no_judge_is_no_judgement(folder: RunFolder):
    assert folder.read().judgements() == {}


# --- finish and read -------------------------------------------------------------------------


def test_a_run_without_its_manifest_says_how_to_go_on(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt], found_map: PersonaMap
):
    folder.begin(plan, prompts)
    folder.save_map(found_map)
    with pytest.raises(MissingArtifactError, match="not finished.*go on with: keel extract tiny"):
        open_run(folder.path)
    with pytest.raises(MissingArtifactError, match="not finished"):
        _ = folder.read().axis


def test_a_folder_that_is_no_run_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(MissingArtifactError, match="keel extract MODEL -o"):
        open_run(tmp_path)
    with pytest.raises(MissingArtifactError, match="keel extract MODEL -o"):
        open_run(tmp_path / "absent")


def test_the_manifest_says_what_was_used_and_the_hash_of_every_file(
    finished: RunFolder, plan: RunPlan
):
    manifest = finished.finish(counts={"rollouts": 6}, now=datetime(2026, 1, 2, tzinfo=UTC))
    found = {
        path.relative_to(finished.path).as_posix()
        for path in finished.path.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", ".lock")
    }
    assert set(manifest.files) == found
    assert all(sha256_of(finished.path / n) == h for n, h in manifest.files.items())
    assert (manifest.created, manifest.seed) == ("2026-01-02T00:00:00+00:00", 7)
    assert (manifest.template, manifest.counts) == ({"system": "merged"}, {"rollouts": 6})
    assert open_run(finished.path).manifest == manifest


def test_the_map_comes_back_with_its_axis_and_quality(finished: RunFolder, found_map: PersonaMap):
    found = open_run(finished.path).persona_map
    assert torch.equal(found.axis.vector, found_map.axis.vector)
    assert torch.equal(found.space.components_LKD, found_map.space.components_LKD)
    assert torch.equal(found.vectors[1].vector_LD, found_map.vectors[1].vector_LD)
    assert [v.role for v in found.vectors] == ["bard", "pirate", "editor"]
    assert (found.dropped, found.warnings) == ({"ghost": 2}, ("one role was dropped",))
    assert found.default_count == 40
    # NaN is unequal to itself; the text of both is not
    assert repr(found.quality) == repr(found_map.quality)


def test_a_map_that_is_half_replaced_or_lost_is_to_be_made_again(
    finished: RunFolder, found_map: PersonaMap
):
    assert finished.is_finished
    last = finished.path / "map.json"
    last.unlink()
    last.mkdir()  # the last of four writes cannot succeed
    with pytest.raises(StorageError):
        finished.save_map(replace(found_map, axis=replace(found_map.axis, layer=1)))
    assert not finished.is_finished
    with pytest.raises(MissingArtifactError, match="make it with: keel extract tiny"):
        _ = open_run(finished.path).axis
    last.rmdir()
    finished.save_map(found_map)
    assert finished.is_finished
    (finished.path / "space.safetensors").unlink()
    assert not finished.is_finished


def test_a_changed_byte_in_the_axis_is_noticed(finished: RunFolder):
    path = finished.path / "axis.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtifactError, match=r"axis\.safetensors has SHA-256 .* manifest"):
        _ = open_run(finished.path).axis


def test_calibration_and_its_floors_come_back(finished: RunFolder, calibration: Calibration):
    finished.save_calibration(calibration)
    run = open_run(finished.path)
    assert run.settings == ("layers_1:3-p50", "layers_1:3-p75")
    assert run.floors.name == "layers_1:3-p75"
    assert [f.value for f in run.floors] == [f.value for f in calibration.setting.floors]
    assert run.floors_named("layers_1:3-p50").provenance == {"percentile": 50}
    assert run.calibration.layers == calibration.layers
    assert run.calibration.settings[1].percentile is None
    assert run.calibration.setting.realised_firing == {1: 0.2, 2: 0.4}
    assert run.has_calibration


def test_what_was_not_made_names_the_command_that_makes_it(finished: RunFolder):
    run = open_run(finished.path)
    assert not run.has_calibration
    for part in ("calibration", "floors", "settings"):
        with pytest.raises(MissingArtifactError, match="keel calibrate"):
            getattr(run, part)


def test_floors_of_an_axis_that_was_replaced_are_stale(
    finished: RunFolder, calibration: Calibration, reading: DriftReading, found_map: PersonaMap
):
    finished.save_calibration(calibration)
    finished.save_drift(reading)
    finished.save_map(found_map)  # the same again: nothing is stale
    assert open_run(finished.path).floors.name == "layers_1:3-p75"
    axis: AssistantAxis = replace(found_map.axis, layer=1)
    finished.save_map(replace(found_map, axis=axis))
    for part in ("floors", "calibration"):
        with pytest.raises(StaleArtifactError, match="another axis .*run again: keel calibrate"):
            getattr(open_run(finished.path), part)
    with pytest.raises(StaleArtifactError, match="another axis .*run again: keel drift"):
        open_run(finished.path).drift_readings()
    for path in (finished.path / "drift").iterdir():
        path.unlink()
    assert open_run(finished.path).drift_readings() == ()


def test_drift_and_replays_come_back_and_no_name_leaves_the_folder(
    finished: RunFolder, reading: DriftReading, replay: Replay, tmp_path: Path
):
    before = names_in(tmp_path)
    finished.save_drift(reading)
    finished.save_drift(replace(reading, conversation_id=""))
    finished.save_replay(replay)
    finished.save_replay(replace(replay, firing_rate=0.5))  # of one id the last one holds
    run = open_run(finished.path)
    assert {r.conversation_id: r for r in run.drift_readings()} == {
        "../etc/passwd": reading,
        "": replace(reading, conversation_id=""),
    }
    assert run.replays() == (replace(replay, firing_rate=0.5),)
    assert names_in(tmp_path) == before


def test_what_is_added_later_is_on_the_manifest(finished: RunFolder, calibration: Calibration):
    finished.save_calibration(calibration)
    path = finished.write_report("<html>ü</html>")
    files = open_run(finished.path).manifest.files
    assert path.read_bytes() == "<html>ü</html>".encode()
    for name in ("floors.safetensors", "calibration.json", "report.html"):
        assert files[name] == sha256_of(finished.path / name)


def test_judgements_added_later_leave_no_wrong_hash(finished: RunFolder):
    finished.save_judgements("local", [Judgement("long", "fully")])
    finished.finish(counts={})
    assert "judgements/local.jsonl" in open_run(finished.path).manifest.files
    finished.save_judgements("local", [Judgement("long", "none")])
    assert "judgements/local.jsonl" not in open_run(finished.path).manifest.files


def test_a_calibration_cut_off_half_way_is_absent_not_mixed(
    finished: RunFolder, calibration: Calibration
):
    finished.save_calibration(calibration)
    (finished.path / "calibration.json").unlink()
    (finished.path / "calibration.json").mkdir()  # the second of two writes cannot succeed
    other = replace(calibration, chosen="layers_1:3-p50")
    with pytest.raises(StorageError):
        finished.save_calibration(other)
    with pytest.raises(MissingArtifactError, match="keel calibrate"):
        _ = open_run(finished.path).floors


def test_a_failure_before_anything_changed_keeps_what_was_there(
    finished: RunFolder, calibration: Calibration
):
    finished.save_calibration(calibration)
    twice = replace(calibration, settings=(calibration.settings[0],) * 2)
    with pytest.raises(UsageError):
        finished.save_calibration(twice)
    assert open_run(finished.path).floors.name == "layers_1:3-p75"


# --- thin and clear --------------------------------------------------------------------------


def test_thinning_keeps_every_kth_rollouts_activations_and_all_texts(
    finished: RunFolder,
    rollouts: list[Rollout],
    activations: ActivationBatch,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("keel.store.thinning.SAMPLE", 2)  # of 6 rollouts: every third
    finished.thin("sample")
    run = open_run(finished.path)
    # in order of batches 0 2 | 1 4 | 3 5, every third is 0 and 4
    kept = {n: b for b in run.activation_batches(sample_will_do=True) for n in b.rollout_ids}
    assert list(kept) == [rollouts[0].prompt.id, rollouts[4].prompt.id]
    assert torch.equal(kept["pirate/p0/q4"].means_BLD[0], activations.means_BLD[4])
    assert len(list(run.rollouts())) == 6
    with pytest.raises(MissingArtifactError, match="sample was kept; extract again"):
        run.activation_batches()
    finished.thin("sample")
    assert open_run(finished.path).manifest == run.manifest


def test_thinning_to_none_removes_every_activation_for_good(finished: RunFolder):
    finished.thin("none")
    finished.thin("sample")
    manifest = finished.finish(counts={})
    assert manifest.activations == "none"
    assert names_in(finished.path / "activations") == []
    with pytest.raises(MissingArtifactError, match="none was kept"):
        open_run(finished.path).activation_batches(sample_will_do=True)
    assert not [n for n in manifest.files if n.startswith("activations")]


def test_thinning_to_means_changes_nothing(finished: RunFolder):
    before = open_run(finished.path).manifest
    finished.thin("means")
    assert open_run(finished.path).manifest == before


def test_an_unfinished_run_is_not_thinned(
    folder: RunFolder, plan: RunPlan, prompts: list[Prompt], rollouts: list[Rollout]
):
    folder.begin(plan, prompts)
    with pytest.raises(MissingArtifactError, match="not finished"):
        folder.thin("none")


def test_clearing_removes_the_run_and_nothing_else(
    finished: RunFolder, plan: RunPlan, prompts: list[Prompt]
):
    for name in ("notes.txt", "rollouts/mine.txt"):
        (finished.path / name).write_text("keep me")
    finished.clear()
    left = {
        p.relative_to(finished.path).as_posix() for p in finished.path.rglob("*") if p.is_file()
    }
    assert left == {"notes.txt", "rollouts/mine.txt", ".lock"}
    assert finished.begin(replace(plan, seed=8), prompts).seed == 8


def test_clearing_a_folder_that_is_no_run_touches_nothing(tmp_path: Path):
    (tmp_path / "report.html").write_text("somebody's")
    RunFolder(tmp_path).clear()
    assert (tmp_path / "report.html").exists()
    (tmp_path / "plan.json").write_text(json.dumps({"title": "somebody's plan"}))
    with pytest.raises(CorruptArtifactError):
        RunFolder(tmp_path).clear()
    assert (tmp_path / "report.html").exists()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
