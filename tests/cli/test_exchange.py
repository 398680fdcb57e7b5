"""What is exported comes back as it was, through files that others read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import keel as library
from keel.store import read_gguf_control_vector
from keel.testing import save_tiny_model
from tests.cli.commands import contents


def test_an_axis_comes_back_from_the_reference_s_form(keel, held):
    written = keel("export", held, "--to", "axis-pt", "-o", "axis.pt", "--json").json
    assert written == {"written": "axis.pt", "size_bytes": Path("axis.pt").stat().st_size}
    read = keel("import", "axis.pt", "-o", "back.safetensors", "--json").json
    assert read == {"axis": "back.safetensors", "layers": 4, "hidden_size": 32}
    back = library.load_axis("back.safetensors")
    assert torch.equal(back.vector, library.open_run(held).axis.vector)


def test_an_axis_turned_round_on_import_points_the_other_way(keel, held):
    keel("export", held, "--to", "axis-pt", "-o", "axis.pt")
    assert (
        keel(*("import", "axis.pt", "-o", "back.safetensors", "--orientation", "role-ward")).code
        == 0
    )
    back = library.load_axis("back.safetensors")
    assert torch.equal(back.vector, -library.open_run(held).axis.vector)


def test_an_axis_in_our_own_form_is_the_run_s_to_the_byte(keel, held):
    assert keel("export", held, "-o", "axis.safetensors").code == 0
    assert Path("axis.safetensors").read_bytes() == (held / "axis.safetensors").read_bytes()


def test_an_imported_axis_takes_the_identity_of_the_model_named(keel, held, model):
    keel("export", held, "--to", "axis-pt", "-o", "axis.pt")
    assert keel("import", "axis.pt", "-o", "back.safetensors", "--model", model).code == 0
    identity = library.load_axis("back.safetensors").identity
    assert identity.weights_hash == library.open_run(held).identity.weights_hash


@pytest.mark.parametrize("setting", [None, "layers_1:3-p50"])
def test_floors_come_back_from_the_reference_s_form(keel, held, setting):
    """Sign and threshold are turned round twice: on the way out, and on the way in."""
    chosen = () if setting is None else ("--setting", setting)
    run = library.open_run(held)
    floors = run.floors if setting is None else run.floors_named(setting)
    assert keel("export", held, "--to", "capping-config", "-o", "c.pt", *chosen).code == 0
    config = torch.load("c.pt", weights_only=True)
    caps = [one["cap"] for one in config["experiments"][0]["interventions"]]
    assert caps == [-floor.value for floor in floors]
    found = keel("import", "c.pt", "-o", "f.safetensors", "--setting", floors.name, "--json").json
    assert found == {
        "floors": "f.safetensors",
        "setting": floors.name,
        "layers": list(floors.layers),
    }
    back = library.load_floors("f.safetensors")
    for came, went in zip(back, floors, strict=True):
        assert (came.layer, came.value) == (went.layer, went.value)
        assert torch.allclose(came.direction, went.direction, atol=1e-6)


def test_a_control_vector_is_the_direction_at_a_share_of_the_residual_norm(keel, held):
    sizes = ("--strength", "0.5", "--band", "1:3")
    assert keel("export", held, "--to", "gguf", "-o", "axis.gguf", *sizes).code == 0
    axis = library.open_run(held).axis
    rows = read_gguf_control_vector("axis.gguf")
    assert sorted(rows) == [1, 2]
    for layer, row in rows.items():
        expected = 0.5 * axis.residual_norm[layer] * axis.direction[layer]
        assert torch.allclose(row, expected, atol=1e-6)


def test_a_control_vector_acts_at_the_axis_own_layer_where_no_band_is_named(keel, held):
    layer = library.open_run(held).axis.layer
    assert layer > 0, "block 0 cannot be steered by llama.cpp: choose another seed"
    assert keel("export", held, "--to", "gguf", "-o", "axis.gguf").code == 0
    assert sorted(read_gguf_control_vector("axis.gguf")) == [layer]


def test_floors_for_a_model_they_do_not_fit_are_not_imported(keel, held, place):
    narrow = save_tiny_model(place / "narrow", "llama", hidden=16)
    keel("export", held, "--to", "capping-config", "-o", "capping.pt")
    found = keel("import", "capping.pt", "-o", "f.safetensors", "--model", narrow)
    assert found.code == 3
    assert "use the floors of this model" in found.err
    assert not Path("f.safetensors").exists()


def test_a_whole_run_goes_to_a_url_and_comes_back(keel, held, tmp_path):
    url = f"file://{tmp_path}/away/mine"
    pushed = keel("export", held, "--to", "run", "-o", url, "--json").json
    pulled = keel("import", url, "-o", "back", "--json").json
    assert pushed == {"written": url, "size_bytes": pulled["size_bytes"]}
    assert contents(Path("back")) == contents(held)
