"""Model families whose layers return their stream in another way than most, on the real vLLM."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from keel.engines import Recording, open_engine
from keel.errors import ModelLayoutError
from keel.testing import tiny_tokenizer
from keel.testing.tiny_models import VOCABULARY_SIZE
from tests.engines.vllm.serving_vllm import GREEDY, HIDDEN, LAYERS, band, by_index, prompt, started

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(600),
]

PROMPTS = [prompt(text) for text in ("hello there", "a", "what is the sea like", "go on")]
HIGH = 3.0
"""A floor that most tokens of the tiny models are under."""
SHAPE = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
}
WINDOWS = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 64}
FAMILIES = {
    "Cohere2": {**WINDOWS, "head_dim": 32},
    "Exaone4": {**WINDOWS, "sliding_window_pattern": "LG"},
    "GraniteMoeHybrid": {
        "layer_types": ["attention"] * LAYERS,
        "num_local_experts": 0,
        "shared_intermediate_size": 2 * HIDDEN,
        "position_embedding_type": "rope",
        "residual_multiplier": 0.5,
        "mamba_n_heads": 8,
    },
    "StableLm": {"partial_rotary_factor": 0.25, "tie_word_embeddings": False},
}
"""Families of vLLM whose layers have added their residual to the first of the pair they return."""
SHORT_CONVOLUTIONS = {
    "layer_types": ["conv", "full_attention"] * 2,
    "full_attn_idxs": [1, 3],
    "block_dim": HIDDEN,
    "conv_dim": HIDDEN,
}


def random_model(folder, family, settings):
    """A tiny random checkpoint of a family, with a tokenizer."""
    import transformers

    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **settings})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    model.save_pretrained(folder / family)
    tiny_tokenizer().save_pretrained(folder / family)
    return folder / family


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_have_added_their_residual_are_held_as_the_next_layer_reads_them(
    tmp_path, family
):
    """Keel added it again: means were 70 to 100 % away; of 120 tokens 29 (Cohere), 30 (StableLM,
    Granite 4) and 64 (EXAONE 4) stayed under a floor that they were said to have been moved to."""
    folder = random_model(tmp_path, family, FAMILIES[family])
    assert_same(folder)


def test_queries_of_three_axes_are_turned_as_in_transformers_without_compiling(tmp_path):
    """vLLM's own kernel for a CPU turns them by other angles, held or not: LFM2's answers and means
    were others, and so were DeepSeek's."""
    assert_same(random_model(tmp_path, "Lfm2", SHORT_CONVOLUTIONS))


def assert_same(folder):
    """Both engines give the same tokens, means and firing, without floors and with them."""
    other = open_engine(str(folder), dtype="float32", device="cpu")
    with started(folder) as engine:
        for interventions in ([], band(HIGH)):
            given = {"seed": 0, "recording": Recording(means=True), "interventions": interventions}
            made, expected = (one.generate(PROMPTS, GREEDY, **given) for one in (engine, other))
            ours, theirs = by_index(made), by_index(expected)
            for index, answer in theirs.items():
                assert ours[index].token_ids == answer.token_ids
                means = answer.activations.means_LD
                apart = (ours[index].activations.means_LD - means).norm(dim=-1)
                assert float((apart / means.norm(dim=-1)).max()) < 2e-5
    assert made.firing.by_layer == pytest.approx(expected.firing.by_layer)


def test_layers_whose_stream_is_taken_for_another_are_noticed_by_the_self_test(
    tmp_path, monkeypatch
):
    """As if the source had not said that Cohere's layers have added their residual."""
    from keel.engines.vllm import worker

    read = worker.read_source
    monkeypatch.setattr(worker, "read_source", lambda kind: replace(read(kind), is_sum=True))
    folder = random_model(tmp_path, "Cohere2", FAMILIES["Cohere2"])
    with (
        pytest.raises(ModelLayoutError, match="of CohereDecoderLayer's two outputs"),
        started(folder),
    ):
        pass
