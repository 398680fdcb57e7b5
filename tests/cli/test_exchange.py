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
    for layer in (1, 2):
        expected = 0.5 * axis.residual_norm[layer] * axis.direction[layer]
        assert torch.allclose(rows[layer], expected, atol=1e-6)
    assert not rows[3].any()


def test_a_control_vector_acts_at_the_axis_own_layer_where_no_band_is_named(keel, held):
    layer = library.open_run(held).axis.layer
    assert layer > 0, "block 0 cannot be steered by llama.cpp: choose another seed"
    assert keel("export", held, "--to", "gguf", "-o", "axis.gguf").code == 0
    rows = read_gguf_control_vector("axis.gguf")
    assert [n for n, row in rows.items() if row.any()] == [layer]


def test_a_control_vector_comes_back_as_an_axis_and_says_its_sign(keel, held):
    axis = library.open_run(held).axis
    for strength in ("0.5", "-0.5"):
        sizes = ("--strength", strength, "--band", "1:4")
        assert keel("export", held, "--to", "gguf", "-o", "axis.gguf", *sizes).code == 0
        assert keel("import", "axis.gguf", "-o", "back.safetensors").code == 0
        back = library.load_axis("back.safetensors")
        assert torch.allclose(back.direction[1:], axis.direction[1:], atol=1e-6)


def test_lm_eval_steers_with_the_exported_file_as_an_addition_does(keel, held, model):
    """Its model `steered`, on the exported file, gives the logits of our own addition."""
    steered_model = pytest.importorskip("lm_eval.models.hf_steered").SteeredModel
    from keel.steering import Addition

    said = keel("export", held, "--to", "lm-eval", "-o", "steer.pt", "--strength", "0.5")
    assert said.code == 0
    assert "does not cap" in said.err
    theirs = steered_model(str(model), "steer.pt", device="cpu", dtype="float32")
    axis, ids = library.open_run(held).axis, torch.tensor([[1, 2, 3, 4]])
    size = float(axis.residual_norm[axis.layer]) * 0.5
    addition = Addition(axis.layer, axis.direction[axis.layer], size)
    with torch.no_grad():
        expected = theirs.forward(input_ids=ids).logits
        plain = theirs.model(input_ids=ids).logits
        with library.steered(theirs.model, [addition]):
            actual = theirs.model(input_ids=ids).logits
    assert torch.allclose(actual, expected, atol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-3)


IGNORED = {
    "a setting for a control vector": ("--to", "gguf", "--setting", "nonsense"),
    "a setting for the axis": ("--setting", "layers_1:3-p50"),
    "a strength for floors": ("--to", "capping-config", "--strength", "0.2"),
    "a band for the axis": ("--to", "axis-pt", "--band", "1:3"),
}


@pytest.mark.parametrize("case", IGNORED)
def test_an_option_that_the_target_would_ignore_is_an_error(keel, held, case):
    said = keel("export", held, "-o", "out.file", *IGNORED[case])
    assert said.code == 3
    assert "would have no effect; leave it out" in said.err
    assert not Path("out.file").exists()


def test_a_folder_for_the_hub_has_a_card_and_is_read_back(keel, held):
    from huggingface_hub import ModelCard

    assert keel("export", held, "--to", "hub", "-o", "mine").code == 0
    run = library.open_run(held)
    assert torch.equal(library.load_axis("mine").vector, run.axis.vector)
    assert library.load_floors("mine").name == run.floors.name
    card = ModelCard.load("mine/README.md")
    assert card.data.library_name == "keel"
    assert "assistant-axis" in card.data.tags
    assert run.floors.name in card.text
    again = keel("export", held, "--to", "hub", "-o", "mine")
    assert again.code == 3
    assert "choose a new folder" in again.err


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


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("gguf", "gguf.gguf"),
        ("axis", "axis.safetensors"),
        ("capping-config", "capping-config.pt"),
        ("lm-eval", "lm-eval.pt"),
    ],
)
def test_a_folder_as_out_is_answered_with_a_name_that_the_target_can_have(keel, held, target, name):
    """For every kind axis.safetensors was named, which a GGUF file may not be called."""
    Path("kept").mkdir()
    refused = keel("export", held, "--to", target, "-o", "kept")
    assert refused.code == 3
    assert refused.err.endswith(f"kept is a folder; give a file in it, such as kept/{name}\n")
    assert not any(Path("kept").iterdir())


def test_a_target_that_is_none_is_answered_without_the_parser_s_words(keel, held):
    refused = keel("export", held, "--to", "onnx", "-o", "x")
    assert refused.code == 3
    assert "Invalid value for '--to': 'onnx' is not one of 'axis'" in refused.err


def test_a_plan_without_a_format_is_damage_and_no_other_version(keel, held):
    Path("half").mkdir()
    (Path("half") / "plan.json").write_text("{}")
    refused = keel("info", "half")
    assert refused.code == 3
    assert "plan.json says no format, expected 1" in refused.err
    assert "version" not in refused.err
