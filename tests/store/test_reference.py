"""Files of the reference implementation: signs and thresholds are turned round, code is not run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from keel.errors import (
    CorruptArtifactError,
    MissingArtifactError,
    ModelMismatchError,
    UsageError,
)
from keel.geometry import raise_to_floor, unit
from keel.store import (
    export_axis_pt,
    export_capping_config_pt,
    load_axis,
    load_floors,
    save_axis,
    save_floors,
)
from keel.types import AssistantAxis, Floor, Floors, ModelIdentity

CONTRAST = Path(__file__).parents[3] / "shared/data/llama-3.3-70b/contrast_vectors.pt"


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


# --- axes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"axis": t, "metadata": {"n": 1}},
        lambda t: {"vector": t, "type": "pos_3", "role": "x"},
    ],
)
def test_every_form_of_the_reference_is_read_in_float32(tmp_path: Path, wrap):
    # half of every number is exact in bfloat16
    vector = torch.arange(12).reshape(3, 4) / 2
    axis = load_axis(saved(wrap(vector.bfloat16()), tmp_path / "assistant_axis.pt"))
    assert axis.vector.dtype == torch.float32
    assert torch.equal(axis.vector, vector)
    assert (axis.identity.layers, axis.identity.hidden_size, axis.layer) == (3, 4, 1)


def test_what_the_file_does_not_say_is_nan_and_said_to_be_unknown(tmp_path: Path):
    axis = load_axis(saved(torch.ones(2, 3), tmp_path / "axis.pt"))
    for unknown in (axis.default_projection, axis.role_projection, axis.residual_norm, axis.gap):
        assert bool(unknown.isnan().all())
    assert axis.provenance["gap"] == "unknown"


@pytest.mark.parametrize(("shape", "layer"), [((46, 4608), 22), ((64, 5120), 32), ((80, 8192), 40)])
def test_the_papers_models_get_the_papers_layer(tmp_path: Path, shape: tuple[int, int], layer: int):
    # a narrow tensor stretched over the shape, so that the file stays small
    path = saved(torch.ones(shape[0], 1).bfloat16().expand(shape), tmp_path / "axis.pt")
    assert load_axis(path).layer == layer
    assert load_axis(path, layer=5).layer == 5


@pytest.mark.skipif(not CONTRAST.exists(), reason="the authors' contrast vectors are not here")
def test_the_authors_contrast_vectors_are_read_and_turned_assistant_ward():
    identity = ModelIdentity("meta-llama/Llama-3.3-70B-Instruct", 80, 8192)
    axis = load_axis(CONTRAST, orientation="role-ward", identity=identity)
    published = torch.load(CONTRAST, weights_only=True).float()
    assert torch.equal(axis.vector, -published)
    norms = {layer: float(axis.vector[layer].norm()) for layer in (32, 40, 56, 79)}
    # the authors' own numbers for Llama 3.3 70B
    assert norms == pytest.approx({32: 1.006, 40: 1.526, 56: 2.673, 79: 5.904}, abs=1e-3)
    assert (axis.layer, axis.identity) == (40, identity)
    with pytest.raises(UsageError, match="pass orientation"):
        load_axis(CONTRAST)
    wrong = load_axis(CONTRAST, orientation="assistant-ward")
    with pytest.raises(UsageError, match="points away from the axis given as reference"):
        load_axis(CONTRAST, orientation="assistant-ward", reference=axis)
    with pytest.raises(UsageError, match="median cosine -1.00"):
        load_axis(CONTRAST, orientation="role-ward", reference=wrong)


def test_the_sign_is_held_against_the_two_means_which_tell_the_gap(tmp_path: Path):
    default_LD = torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    role_mean_LD = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    path = saved(default_LD - role_mean_LD, tmp_path / "axis.pt")
    means = {"default_LD": default_LD, "role_mean_LD": role_mean_LD}
    axis = load_axis(path, **means)
    # directions are the unit axes, so projections are the means' own coordinates
    assert axis.default_projection.tolist() == [3.0, 5.0]
    assert axis.role_projection.tolist() == [1.0, 1.0]
    assert axis.in_gaps(2.0, 0) == 0.5
    with pytest.raises(UsageError, match='points away from default minus role.*"role-ward"'):
        load_axis(path, orientation="role-ward", **means)


def test_a_trusted_axis_of_another_model_is_refused(tmp_path: Path, axis: AssistantAxis):
    path = saved(torch.ones(2, 3), tmp_path / "axis.pt")
    with pytest.raises(ModelMismatchError, match=r"\[4, 6\], the axis \[2, 3\]"):
        load_axis(path, reference=axis)


def test_an_axis_of_another_shape_than_the_model_is_refused(
    tmp_path: Path, identity: ModelIdentity
):
    path = saved(torch.ones(4, 5), tmp_path / "axis.pt")
    with pytest.raises(ModelMismatchError, match="4 layers × 5 .* against 4 × 6 .tiny."):
        load_axis(path, identity=identity)


@pytest.mark.parametrize("tensor", [torch.ones(6), torch.ones(1, 4, 6), torch.ones(4, 6).long()])
def test_what_is_no_axis_of_all_layers_is_refused(tmp_path: Path, tensor: torch.Tensor):
    with pytest.raises(UsageError, match=r"expected floats \[layers, hidden\]"):
        load_axis(saved(tensor, tmp_path / "axis.pt"))


@pytest.mark.parametrize("content", [{"pca": 1}, [torch.ones(2, 2)], "text"])
def test_a_file_without_an_axis_says_what_it_holds(tmp_path: Path, content: object):
    with pytest.raises(CorruptArtifactError, match="holds a (dict|list|str)"):
        load_axis(saved(content, tmp_path / "axis.pt"))


class Evil:
    """What a pickle may do: run a command while it is read."""

    def __reduce__(self):
        return (os.system, (f"touch '{os.environ['KEEL_TEST_PROOF']}'",))


def test_a_pickle_that_carries_code_is_refused_and_the_code_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    proof = tmp_path / "the code ran"
    monkeypatch.setenv("KEEL_TEST_PROOF", str(proof))
    path = saved({"axis": torch.ones(2, 2), "metadata": Evil()}, tmp_path / "axis.pt")
    with pytest.raises(CorruptArtifactError, match="Keel runs no code from files"):
        load_axis(path)
    assert not proof.exists()


@pytest.mark.parametrize("kept", [0, 10, 600, -1])
def test_a_truncated_pt_file_is_refused(tmp_path: Path, kept: int):
    path = saved(torch.ones(20, 20), tmp_path / "axis.pt")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorruptArtifactError, match=r"axis\.pt"):
        load_axis(path)


def test_an_axis_goes_out_and_comes_back_with_its_length(tmp_path: Path, axis: AssistantAxis):
    export_axis_pt(axis, tmp_path / "assistant_axis.pt")
    content = torch.load(tmp_path / "assistant_axis.pt", weights_only=True)
    assert list(content) == ["axis"]
    assert torch.equal(load_axis(tmp_path / "assistant_axis.pt").vector, axis.vector)


# --- capping configurations ------------------------------------------------------------------


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


# --- our own ---------------------------------------------------------------------------------


def test_ours_are_read_checked_against_the_model_and_given_another_layer(
    tmp_path: Path, axis: AssistantAxis, bands: tuple[Floors, Floors], identity: ModelIdentity
):
    save_axis(axis, tmp_path / "axis.safetensors")
    save_floors(bands, tmp_path / "floors.safetensors", default=bands[1].name)
    found = load_axis(tmp_path / "axis.safetensors", identity=identity, layer=3)
    assert (found.layer, found.provenance) == (3, axis.provenance)
    floors = load_floors(tmp_path / "floors.safetensors", identity=identity, axis=axis)
    assert floors.name == bands[1].name
    other = replace(identity, weights_hash="bb")
    for load in (load_axis, load_floors):
        name = load.__name__.removeprefix("load_")
        with pytest.raises(ModelMismatchError, match="made on another model: weights_hash aa"):
            load(tmp_path / f"{name}.safetensors", identity=other)


def test_ours_say_their_sign_themselves(tmp_path: Path, axis: AssistantAxis):
    save_axis(axis, tmp_path / "axis.safetensors")
    with pytest.raises(UsageError, match="leave out orientation"):
        load_axis(tmp_path / "axis.safetensors", orientation="role-ward")


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path, axis: AssistantAxis):
    save_axis(axis, tmp_path / "axis.safetensors")
    with pytest.raises(UsageError, match="axis layer is 4, expected 0 to 3"):
        load_axis(tmp_path / "axis.safetensors", layer=4)


@pytest.mark.parametrize("name", ["absent.pt", "./absent", "weights/axis.pt", "/no/such/folder"])
def test_a_path_that_is_not_there_says_so_without_asking_the_hub(name: str):
    with pytest.raises(MissingArtifactError, match="is not there; point at a file"):
        load_axis(name)
