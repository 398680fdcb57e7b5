"""Folders that are not what they say: each is refused in one line, and never run in part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file

from keel.doctor import shrunken_model
from keel.engines.transformers import load_model
from keel.errors import ModelLoadError
from keel.settings import LoadSettings
from keel.testing import save_tiny_model, tiny_model, tiny_tokenizer

SETTINGS = LoadSettings(device="cpu", dtype="float32")


def configured(folder: Path, **changes: object) -> None:
    """Change what the folder's config.json says."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without(*endings: str) -> Callable[[Path], None]:
    """Leaves weights out of the file whose names end so."""

    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        kept = {n: t for n, t in load_file(path).items() if not n.endswith(endings)}
        save_file(kept, path, {"format": "pt"})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (without("lm_head.weight"), r"lm_head\.weight"),  # as a classifier's files do
        (without("mlp.up_proj.weight"), r"up_proj\.weight, .*up_proj\.weight and 2 more"),
        (lambda folder: configured(folder, num_hidden_layers=6), r"layers\.4\..* and 16 more"),
    ],
)
def test_weights_that_are_missing_are_refused_since_random_numbers_would_stand_there(
    tmp_path, spoil, names
):
    """A classifier's folder, and one whose config.json has more layers, passed every check."""
    folder = save_tiny_model(tmp_path, "llama")
    spoil(folder)
    with pytest.raises(ModelLoadError, match=f"are missing: .*{names}; .*random numbers"):
        load_model(str(folder), SETTINGS)


def test_weights_of_another_shape_are_named_with_both_shapes(tmp_path):
    """transformers' own error points at "the above report"."""
    folder = save_tiny_model(tmp_path, "llama")
    configured(folder, intermediate_size=48)
    with pytest.raises(ModelLoadError, match=r"down_proj\.weight \[32, 64\], expected \[32, 48\]"):
        load_model(str(folder), SETTINGS)


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        (
            "llama",
            {"num_hidden_layers": 3},
            r"hold 4 layers of model\.layers, of which it names 3;",
        ),
        ("gpt2", {"n_layer": 1}, r"hold 4 layers of transformer\.h, of which it names 1;"),
        (
            "qwen2",
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
            r"hold model\.layers\.0\.self_attn\.k_proj\.bias and 11 more weights",
        ),
    ],
)
def test_a_config_that_leaves_out_layers_or_biases_of_the_weights_is_refused(
    tmp_path, family, changes, says
):
    """Half a model opened, passed every check of the doctor and was measured as if whole."""
    shrunken_model(family).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    configured(tmp_path, **changes)
    with pytest.raises(ModelLoadError, match=says):
        load_model(str(tmp_path), SETTINGS)


def test_layers_that_predict_tokens_further_ahead_are_no_layers_left_out(tmp_path):
    """GLM, MiMo and DeepSeek publish one behind the last, which their config counts."""
    shrunken_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    configured(tmp_path, num_hidden_layers=3, num_nextn_predict_layers=1)
    assert len(load_model(str(tmp_path), SETTINGS).model.model.layers) == 3


def test_such_layers_are_known_by_their_weights_where_no_config_counts_them(tmp_path):
    """Every model that calls its count otherwise was refused as another model's."""
    shrunken_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    norm = weights["model.norm.weight"]
    joining = {f"model.layers.3.{name}.weight": norm.clone() for name in ("enorm", "hnorm")}
    configured(tmp_path, num_hidden_layers=3, mtp_layers=1)
    with pytest.raises(ModelLoadError, match="hold 4 layers"):
        load_model(str(tmp_path), SETTINGS)
    save_file(weights | joining, path, {"format": "pt"})
    assert len(load_model(str(tmp_path), SETTINGS).model.model.layers) == 3


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize("damage", [cut_short, Path.unlink])
def test_a_shard_that_is_gone_or_cut_short_is_a_refusal_and_no_traceback(tmp_path, damage):
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="40KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    damage(sorted(tmp_path.glob("model-*.safetensors"))[1])
    with pytest.raises(ModelLoadError, match="copy the folder anew, all of its files"):
        load_model(str(tmp_path), SETTINGS)


def test_a_tokenizer_that_transformers_made_of_no_files_is_refused(tmp_path):
    """Of a Cohere model without tokenizer files it makes one that gives no token for any text."""
    config = transformers.CohereConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    transformers.CohereForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="no tokenizer with it: .*makes no tokens"):
        load_model(str(tmp_path), SETTINGS)


def test_a_model_of_a_kind_that_keel_does_not_run_is_refused_by_its_kind(tmp_path):
    """The reason that came last named a class for images."""
    config = transformers.T5Config(vocab_size=320, d_model=32, d_kv=8, d_ff=64, num_layers=2)
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="predicts the next token") as refusal:
        load_model(str(tmp_path), SETTINGS)
    assert "Image" not in str(refusal.value)


def test_code_from_a_folder_is_refused_with_the_option_that_allows_it(tmp_path):
    folder = save_tiny_model(tmp_path, "llama")
    code = {"AutoConfig": "configuration_odd.OddConfig"}
    configured(folder, model_type="odd", auto_map=code)
    with pytest.raises(ModelLoadError, match="allow it to run with --trust-remote-code"):
        load_model(str(folder), SETTINGS)
