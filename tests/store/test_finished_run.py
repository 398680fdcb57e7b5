"""A finished run: its manifest, what is read of it, what is added later, what is let go."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from keel.errors import (
    CorruptArtifactError,
    MissingArtifactError,
    StaleArtifactError,
    StorageError,
    UsageError,
)
from keel.store import RunFolder, RunPlan, open_run
from keel.store.files import sha256_of
from keel.types import (
    ActivationBatch,
    AssistantAxis,
    Calibration,
    DriftReading,
    Judgement,
    PersonaMap,
    Prompt,
    Replay,
    Rollout,
)


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
    finished.save_drift(replay)
    finished.save_drift(replace(replay, firing_rate=0.5))  # of one id the last one holds
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
    monkeypatch.setattr("keel.store.batches.SAMPLE", 2)  # of 6 rollouts: every third
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
