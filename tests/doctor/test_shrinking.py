"""Tiny models of any type: small, whole, and with every kind of layer that the type has."""

from __future__ import annotations

import pytest
import torch

from keel.doctor import model_types, shrunken_config, shrunken_model
from keel.errors import UsageError
from keel.testing import tiny_tokenizer

KINDS = [
    "llama",  # attention
    "gemma3_text",  # windows
    "qwen3_next",  # linear attention beside attention
    "mamba2",  # states
    "deepseek_v3",  # latent attention, experts
    "qwen2_5_vl",  # positions on three axes, beside a tower
    "bart",  # the decoder of a pair
]


@pytest.mark.parametrize("model_type", KINDS)
def test_a_model_of_any_kind_is_small_and_predicts_every_token(model_type):
    model = shrunken_model(model_type)
    assert sum(p.numel() for p in model.parameters()) < 2_000_000
    with torch.no_grad():
        logits = model(input_ids=torch.arange(3, 43)[None], use_cache=False).logits
    assert logits.shape == (1, 40, len(tiny_tokenizer()))
    assert bool(torch.isfinite(logits).all())


def test_every_type_that_transformers_generates_text_with_is_named():
    types = model_types()
    assert types["llama"] == types["gemma3"] == "text"
    assert types["qwen2_5_vl"] == "image-text"
    assert len(types) > 200


def test_every_kind_of_layer_stays():
    """Gemma 3 has one layer in six that sees everything, the sixth."""
    kinds = shrunken_config("gemma3_text").layer_types
    assert sorted(set(kinds)) == ["full_attention", "sliding_attention"]
    assert len(kinds) == 4


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "qwen3_next"])
def test_a_wider_model_has_wider_heads_and_as_many(model_type):
    """vLLM's attention on a CPU takes no heads of 16."""
    narrow, wide = (shrunken_config(model_type, widening=n).get_text_config() for n in (1, 2))
    assert (narrow.head_dim, wide.head_dim) == (16, 32)
    assert wide.hidden_size == 2 * narrow.hidden_size
    assert wide.num_attention_heads == narrow.num_attention_heads


def test_a_setting_is_changed_where_the_config_has_it():
    changes = {"kv_lora_rank": 512}
    assert shrunken_config("deepseek_v3", changes=changes).kv_lora_rank == 512
    assert not hasattr(shrunken_config("llama", changes=changes), "kv_lora_rank")


def test_no_parameter_is_constant():
    for name, parameter in shrunken_model("qwen3_next").named_parameters():
        assert parameter.numel() == 1 or float(parameter.detach().std()) > 0, name


def test_the_same_seed_builds_the_same_weights_and_leaves_the_callers_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, third = (shrunken_model("llama", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    weights = [next(model.parameters()) for model in (first, second, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_unknown_type_is_refused_by_name():
    with pytest.raises(UsageError, match="'lama'"):
        shrunken_model("lama")
