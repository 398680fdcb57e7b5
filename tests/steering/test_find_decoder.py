"""The decoder blocks are found by structure, in every layout there is."""

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from keel.errors import ModelLayoutError
from keel.steering import find_decoder
from keel.testing import TINY_FAMILIES, tiny_model


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_blocks_are_found_in_every_family(family):
    model = tiny_model(family, layers=3)
    decoder = find_decoder(model)
    assert len(decoder.blocks) == 3
    assert decoder.hidden_size == 32
    assert decoder.path == {
        "gpt2": "transformer.h",
        "gpt_neox": "gpt_neox.layers",
        "gemma3_vision": "model.language_model.layers",
        "glm5_next": "model.language_model.layers",
    }.get(family, "model.layers")


def test_a_vision_tower_of_the_same_depth_is_not_taken():
    model = tiny_model("gemma3_vision", layers=1)  # its vision tower has one layer, too
    assert "vision" not in find_decoder(model).path


def test_experts_of_the_same_number_are_not_taken():
    """Newer models keep their experts in one tensor; those with own code keep a list per block."""
    model = tiny_model("qwen3_moe", layers=4)
    for block in model.model.layers:
        block.mlp.experts = torch.nn.ModuleList([torch.nn.Linear(1, 1) for _ in range(4)])
    assert find_decoder(model).path == "model.layers"


def test_of_two_lists_the_one_that_runs_is_taken():
    model = tiny_model("llama")
    model.draft = torch.nn.ModuleList([torch.nn.Linear(1, 1) for _ in range(4)])
    assert find_decoder(model).path == "model.layers"


def test_two_lists_that_both_run_are_refused_with_their_names():
    model = tiny_model("llama")
    model.model.more = torch.nn.ModuleList(list(model.model.layers))
    with pytest.raises(ModelLayoutError, match=r"found 2.*model.layers \(4\).*model.more \(4\)"):
        find_decoder(model)


def test_blocks_are_found_by_running_where_the_config_does_not_count_them():
    model = tiny_model("gpt2")
    del model.config.n_layer
    assert find_decoder(model).path == "transformer.h"


def test_a_decoder_that_is_called_an_encoder_is_found():
    config = BertConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        is_decoder=True,
    )
    assert find_decoder(BertLMHeadModel(config)).path == "bert.encoder.layer"


def test_a_model_with_an_encoder_is_refused():
    model = tiny_model("llama")
    model.config.is_encoder_decoder = True
    with pytest.raises(ModelLayoutError, match="encoder and a decoder"):
        find_decoder(model)


def test_a_compiled_model_is_looked_into():
    model = tiny_model("llama")
    assert find_decoder(torch.compile(model)).blocks[0] is model.model.layers[0]


def test_an_unknown_layout_says_what_was_looked_for_and_how_to_go_on():
    with pytest.raises(
        ModelLayoutError, match=r"expected one ModuleList that carries.*blocks='model.layers'"
    ):
        find_decoder(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_a_path_given_overrules_the_search():
    model = tiny_model("llama")
    del model.config.num_hidden_layers
    assert len(find_decoder(model, "model.layers").blocks) == 4


def test_a_wrong_path_is_refused():
    with pytest.raises(ModelLayoutError, match="has no 'model.blocks'"):
        find_decoder(tiny_model("llama"), "model.blocks")
