"""An axis from elsewhere serves a model that has no run; files, folders and a hub's cache alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from keel.cli.axes import run_of
from keel.cli.options import Given
from keel.cli.serve import source_of
from keel.errors import MissingArtifactError
from keel.store import PUBLISHED, export_axis_pt, export_capping_config_pt, open_run
from tests.cli.commands import CPU, talk
from tests.cli.test_refusals import check_refused

ID = "somebody/axes/tiny"
SETTING = "layers_1:3-p50"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KEEL_CACHE", str(tmp_path / "cache"))


def publish(held: Path, folder: Path, *, has_floors: bool = True) -> Path:
    """A run's axis, default mean and floors, as the paper's authors put theirs on a hub."""
    run = open_run(held)
    folder.mkdir(parents=True)
    export_axis_pt(run.axis, folder / "assistant_axis.pt")
    torch.save(run.persona_map.default_LD, folder / "default_vector.pt")
    if has_floors:
        export_capping_config_pt(run.floors_file.settings, folder / "capping_config.pt")
    return folder


def hub_cache(held: Path, home: Path) -> dict[str, str]:
    """What a download leaves behind, in huggingface_hub's own layout; and no way to the hub."""
    repository = home / "hub" / "datasets--somebody--axes"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    publish(held, repository / "snapshots" / ("0" * 40) / "tiny")
    return {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}


def said() -> Path:
    return talk(Path("t.json"), ("user", "Hi"), ("assistant", "Hello there"))


def test_conversations_read_as_along_the_run_that_the_axis_came_from(keel, held, model):
    """Its gap is told by the default's mean, which lies beside it."""
    publish(held, Path("axes"))
    own = keel("drift", held, said(), "--layer", 2, *CPU, "--json").json
    given = ("--axis", "axes", "--setting", SETTING, "--layer", 2, *CPU, "--json")
    (borrowed,) = keel("drift", model, "t.json", *given).json
    (turn,), (expected,) = borrowed["turns"], own[0]["turns"]
    assert turn["projection"] == pytest.approx(expected["projection"], rel=1e-5)
    assert turn["gaps"] == pytest.approx(expected["gaps"], rel=1e-3)


def test_a_chat_is_capped_by_the_floors_beside_the_axis(keel, held, model, monkeypatch):
    import io

    publish(held, Path("axes"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
    given = ("--axis", "axes", "--setting", SETTING, "--capped", "--max-new-tokens", 4)
    answer = keel("chat", model, *given, *CPU, "--json").json
    assert answer["is_capped"]
    assert answer["firing_rate"] is not None
    assert answer["gaps"] is not None


def test_an_axis_of_a_hub_is_taken_from_its_cache_where_the_hub_is_out_of_reach(
    held, model, place, tmp_path
):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "keel", "drift", str(model), str(said())),
            *("--axis", ID, "--setting", SETTING, "--json", *CPU),
        ],
        env=hub_cache(held, tmp_path / "home"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (reading,) = json.loads(done.stdout)
    assert reading["turns"][0]["gaps"] is not None
    assert f"with the axis {ID}, floors {SETTING}" in done.stderr


def test_readings_gather_in_a_run_that_can_be_looked_at(keel, held, model, place):
    publish(held, Path("axes"))
    given = ("--axis", "axes", "--setting", SETTING, *CPU, "--json")
    for _ in range(2):
        assert keel("drift", model, said(), *given).code == 0
    (run,) = keel("ls", place / "cache" / "axes", "--json").json
    assert (run["model"], run["floors"]["chosen"]) == (str(model), SETTING)
    info = keel("info", run["run"]).out
    assert "1 conversations read" in info


def test_the_setting_that_a_run_chose_caps_where_none_is_named(keel, held, model):
    """It was refused: `the floors have 4 settings; name the one that caps`, without a cap too."""
    found = keel("drift", model, said(), "--axis", held, *CPU, "--json")
    assert found.code == 0, found.err
    chosen = keel("info", held, "--json").json["floors"]["chosen"]
    assert f"floors {chosen}" in found.err


def test_a_model_of_another_shape_is_refused_before_its_weights_are_loaded(keel, held, place):
    from keel.testing import save_tiny_model

    publish(held, Path("axes"))
    narrow = save_tiny_model(place / "narrow", "llama", hidden=16)
    (narrow / "model.safetensors").unlink()
    found = keel("chat", narrow, "--axis", "axes", "--setting", SETTING)
    check_refused(found, "was made on another model", "4 layers × 32", "4 × 16")


REFUSED: dict[str, tuple[list[object], tuple[str, ...]]] = {
    "a run in the model's stead": (
        ["chat", "held", "--axis", "axes"],
        ("held is a run, which has an axis of its own", "leave out --axis"),
    ),
    "floors without an axis": (
        ["chat", "held", "--floors", "axes"],
        ("--floors belongs to an axis from elsewhere; add --axis",),
    ),
    "no setting of several": (
        ["chat", "MODEL", "--axis", "axes"],
        ("the floors have 4 settings", "name the one that caps: --setting NAME"),
    ),
    "an axis that is nowhere": (
        ["chat", "MODEL", "--axis", "./nowhere.pt"],
        ("nowhere.pt is not there; point at a file, a run folder, or a hub id",),
    ),
    "vectors that do not say their sign": (
        ["chat", "MODEL", "--axis", "contrast_vectors.pt"],
        ("does not say its sign", "--orientation role-ward"),
    ),
    "floors turned round against the axis": (
        ["chat", "MODEL", "--axis", "turned/assistant_axis.pt", "--floors", "axes"],
        ("orientation opposite to the axis",),
    ),
    "an axis alone, without the default's mean": (
        ["chat", "MODEL", "--axis", "alone/assistant_axis.pt"],
        ("does not say where default and roles lie", "beside its file, as default_vector.pt"),
    ),
    "a cap without floors": (
        ["chat", "MODEL", "--axis", "bare", "--capped"],
        ("has no floors to cap with; give some with --floors FILE",),
    ),
    "a replay without floors": (
        ["drift", "MODEL", "t.json", "--axis", "bare", "--replay"],
        ("has no floors to cap with; give some with --floors FILE",),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_from_elsewhere_is_refused(keel, held, model, case):
    publish(held, Path("axes"))
    publish(held, Path("bare"), has_floors=False)
    axis = open_run(held).axis.vector
    for folder, vector in (("turned", -axis), ("alone", axis)):
        Path(folder).mkdir()
        torch.save({"axis": vector}, f"{folder}/assistant_axis.pt")
    torch.save(-axis, "contrast_vectors.pt")
    said()
    arguments, words = REFUSED[case]
    found = keel(*[model if a == "MODEL" else a for a in arguments], *CPU)
    notes = [line for line in found.err.splitlines() if not line.startswith("keel: ")]
    assert len(notes) <= 2
    found = type(found)(found.code, found.out, found.err.splitlines()[-1])
    check_refused(found, *words)


def test_what_an_axis_from_elsewhere_lacks_comes_with_a_remedy_that_helps(keel, held, model):
    """`keel calibrate` was the remedy, which has no answers to read there; the model came first."""
    publish(held, Path("bare"), has_floors=False)
    publish(held, Path("axes"))
    bare = source_of_axis(model, "bare")
    with_floors = source_of_axis(model, "axes", SETTING)
    own = f"keel extract {model} -o runs/mine && keel calibrate runs/mine"
    for arguments in (
        ("calibrate", bare),
        ("calibrate", with_floors, "--sweep"),
        ("evaluate", bare, "jailbreak", "--arms", "capped"),
        ("evaluate", with_floors, "jailbreak", "--arms", "capped,random-lift"),
        ("drift", "study", bare, "--arms", "none,capped"),
    ):
        check_refused(keel(*arguments), own)
    assert own in keel("info", bare).out
    assert keel("drift", "study", with_floors, "--arms", "none,capped", "--dry-run").code == 0


def source_of_axis(model: Path, axis: str, setting: str | None = None) -> Path:
    """The folder in which `keel chat MODEL --axis AXIS` keeps what it took."""
    return run_of(model, Given({"--axis": axis}), setting)


def test_a_server_takes_floors_alone_with_the_model_beside_them(held, model):
    given = Given({"--floors": "capping_config.pt", "--setting": SETTING})
    source, settings = source_of(model, given)
    assert (source, settings.model, settings.setting) == ("capping_config.pt", str(model), SETTING)


def test_a_server_takes_an_axis_with_its_floors_and_never_one_without(held, model):
    publish(held, Path("axes"))
    source, _ = source_of(model, Given({"--axis": "axes", "--setting": SETTING}))
    run = open_run(source)
    assert run.floors.name == SETTING
    assert run.floors.identity is not None
    assert run.floors.identity.model_id == str(model)
    publish(held, Path("bare"), has_floors=False)
    with pytest.raises(MissingArtifactError, match="without floors to cap with"):
        source_of(model, Given({"--axis": "bare"}))


def test_published_axes_are_listed_with_the_command_that_uses_them(keel):
    shown = keel("axes").out
    for each in PUBLISHED:
        assert f"keel chat {each.model} --axis {each.source.rpartition('/')[2]}" in shown
    assert [each["model"] for each in keel("axes", "--json").json] == [p.model for p in PUBLISHED]
