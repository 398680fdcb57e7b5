"""The reference's capping configurations: signs and thresholds are turned round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from keel.errors import (
    CorruptArtifactError,
    ModelMismatchError,
    UsageError,
)
from keel.geometry import raise_to_floor, unit
from keel.store import (
    export_capping_config_pt,
    load_floors,
    save_floors,
)
from keel.types import AssistantAxis, Floor, Floors, ModelIdentity


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def config(tmp_path: Path, axis: AssistantAxis) -> Path:
    """Role-ward vectors of the axis' own length, with the highest projection allowed on them."""
    role_ward = -axis.vector.bfloat16()
    vectors = {
        f"layer_{n}/contrast": {"vector": role_ward[n], "layer": n} for n in range(len(role_ward))
    }
    capped = [
        {"vector": "layer_1/contrast", "cap": -1.875},
        {"vector": "layer_2/contrast", "cap": 2},
    ]
    added = [{"vector": "layer_1/contrast", "coeff": 3.0}]
    experiments = [
        {"id": "layers_1:3-p0.25", "interventions": [*capped, *added]},
        {"id": "layers_1:3-p0.01", "interventions": capped},
        {"id": "layers_1:2-add", "interventions": added},
    ]
    return saved({"vectors": vectors, "experiments": experiments}, tmp_path / "capping_config.pt")


def test_a_highest_role_ward_projection_becomes_a_floor_on_the_axis(
    config: Path, axis: AssistantAxis
):
    floors = load_floors(config, setting="layers_1:3-p0.25", axis=axis)
    # caps −1.875 and 2 on v are floors 1.875 and −2 on −v; the intervention without cap is left out
    assert [(f.layer, f.value) for f in floors] == [(1, 1.875), (2, -2.0)]
    expected = unit(axis.vector.bfloat16().float())
    assert torch.allclose(torch.stack([f.direction for f in floors]), expected[1:3], atol=1e-6)


def test_an_imported_floor_moves_what_the_reference_caps(config: Path):
    """The published rule, written from the other side: h − max(⟨h, v⟩ − cap, 0)·v, v role-ward."""
    floor = next(iter(load_floors(config, setting="layers_1:3-p0.25")))
    stored = torch.load(config, weights_only=True)["vectors"]["layer_1/contrast"]["vector"].float()
    v, cap = stored / stored.norm(), -1.875
    hidden = torch.randn(200, 6) * 3
    capped = hidden - ((hidden @ v) - cap).clamp_min(0)[:, None] * v
    assert torch.allclose(raise_to_floor(hidden, floor.direction, floor.value), capped, atol=1e-5)
    assert 0 < int((capped != hidden).any(-1).sum()) < 200


def test_the_name_is_kept_and_the_percentile_is_told_assistant_ward(config: Path):
    floors = load_floors(config, setting="layers_1:3-p0.25")
    assert floors.name == "layers_1:3-p0.25"
    assert floors.provenance["percentile"] == 75
    assert "p0.25 in the name is role-ward" in floors.provenance["percentile_note"]
    assert load_floors(config, setting="layers_1:3-p0.01").provenance["percentile"] == 99


def test_an_unknown_or_missing_setting_lists_names_like_it(config: Path):
    with pytest.raises(UsageError, match="no setting 'layers_1:3-p25' among the 3; near it: la"):
        load_floors(config, setting="layers_1:3-p25")
    with pytest.raises(UsageError, match="has 3 settings .*name one with setting="):
        load_floors(config)


def test_a_setting_that_only_adds_vectors_is_refused(config: Path):
    with pytest.raises(UsageError, match="'layers_1:2-add' .* caps nothing"):
        load_floors(config, setting="layers_1:2-add")


def test_floors_are_held_against_the_axis(config: Path, axis: AssistantAxis):
    name = "layers_1:3-p0.25"
    with pytest.raises(UsageError, match="orientation opposite to the axis .cosine -1.000"):
        load_floors(config, setting=name, axis=replace(axis, vector=-axis.vector))
    with pytest.raises(ModelMismatchError, match="expected above 0.99"):
        load_floors(config, setting=name, axis=replace(axis, vector=axis.vector.roll(1, 0)))
    narrow = AssistantAxis(
        torch.ones(4, 5), 0, *[torch.ones(4)] * 3, identity=ModelIdentity("n", 4, 5)
    )
    with pytest.raises(ModelMismatchError, match="6 dimensions"):
        load_floors(config, setting=name, axis=narrow)


def test_floors_that_do_not_fit_the_model_are_refused(config: Path, identity: ModelIdentity):
    name = "layers_1:3-p0.25"
    assert load_floors(config, setting=name, identity=identity).identity == identity
    for other in (replace(identity, layers=2), replace(identity, hidden_size=5)):
        with pytest.raises(ModelMismatchError, match="use the floors of this model"):
            load_floors(config, setting=name, identity=other)


@pytest.mark.parametrize(
    "content",
    [
        torch.ones(3),
        {"vectors": {}},
        {"vectors": {}, "experiments": [{"id": "a", "interventions": [{"vector": "x", "cap": 1}]}]},
    ],
)
def test_a_config_with_parts_missing_is_damage(tmp_path: Path, content: object):
    with pytest.raises(CorruptArtifactError, match="not a capping configuration"):
        load_floors(saved(content, tmp_path / "capping_config.pt"), setting="a")


def test_bands_go_out_role_ward_and_come_back(
    tmp_path: Path, bands: tuple[Floors, Floors], axis: AssistantAxis
):
    path = tmp_path / "capping_config.pt"
    export_capping_config_pt(bands, path)
    content = torch.load(path, weights_only=True)
    # the same directions in both settings: one vector per layer
    assert sorted(entry["layer"] for entry in content["vectors"].values()) == [1, 2]
    first = content["experiments"][0]["interventions"][0]
    assert first["cap"] == -bands[0].floors[0].value
    assert float(content["vectors"][first["vector"]]["vector"] @ axis.vector[1]) < 0
    for band in bands:
        found = load_floors(path, setting=band.name, axis=axis)
        assert [(f.layer, f.value) for f in found] == [(f.layer, f.value) for f in band]


def test_two_directions_at_one_layer_go_out_as_two_vectors(tmp_path: Path):
    x, y = torch.eye(2)
    export_capping_config_pt(
        [Floors((Floor(0, x, 1.0), Floor(0, y, 2.0)), "both")], tmp_path / "c.pt"
    )
    found = load_floors(tmp_path / "c.pt")
    assert [(f.direction.tolist(), f.value) for f in found] == [([1, 0], 1.0), ([0, 1], 2.0)]


@pytest.mark.parametrize(
    "floor", [Floor(0, torch.eye(2)[0], 1.0, "prompt"), Floor(0, torch.eye(2)[0], -float("inf"))]
)
def test_floors_that_the_reference_cannot_say_are_not_exported(tmp_path: Path, floor: Floor):
    with pytest.raises(UsageError, match="can only say finite floors for all tokens"):
        export_capping_config_pt([Floors((floor,), "odd")], tmp_path / "c.pt")


def test_a_floors_file_of_any_name_is_read_and_another_file_is_refused(tmp_path):
    """What a file holds decides: one without an ending was refused."""
    direction = torch.nn.functional.one_hot(torch.tensor(0), 8).float()
    save_floors([Floors((Floor(1, direction, 0.5),), "mine")], tmp_path / "floors", default="mine")
    assert load_floors(tmp_path / "floors").name == "mine"
    (tmp_path / "talk.json").write_text('{"messages": []}')
    with pytest.raises(UsageError, match="talk.json is no file of floors"):
        load_floors(tmp_path / "talk.json")
