"""Models whose parts hang together in another way than in most are read all the same."""

import torch
from transformers import BertConfig, BertLMHeadModel

from keel.engines import Recording
from keel.engines.transformers import TransformersEngine
from keel.geometry import unit
from keel.testing import tiny_model, tiny_tokenizer
from keel.types import Floor
from tests.engines.small import V, prompts

CONVERSATION = prompts()[1].conversation.with_reply("the sea is wide")


def bert() -> BertLMHeadModel:
    """A decoder whose blocks hang under a module that is given embeddings, not tokens."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        is_decoder=True,
        initializer_range=0.2,
    )
    return BertLMHeadModel(config).eval()


def test_blocks_under_a_module_that_does_not_embed_tokens_are_read():
    model = bert()
    made = TransformersEngine(model, tiny_tokenizer(), blocks="bert.encoder.layer")
    kept = []
    handle = model.bert.encoder.layer[1].register_forward_hook(
        lambda _block, _args, output: kept.append(output)
    )
    (reading,) = made.read([CONVERSATION], recording=Recording(means=True))
    handle.remove()
    (turn,) = made.template.transcript(CONVERSATION).turns
    hidden_TD = kept[0] if isinstance(kept[0], torch.Tensor) else kept[0][0]
    expected_D = hidden_TD[0, turn.start : turn.stop].mean(0)
    torch.testing.assert_close(reading.turns[0].activations.means_LD[1], expected_D)


def unnamed_head():
    """A model that does not say which module its head is."""
    model = tiny_model("llama")
    model.get_output_embeddings = lambda: None
    return model


def test_a_likelihood_needs_no_name_of_the_head():
    recording = Recording(log_likelihood=True)
    readings = [
        next(TransformersEngine(model, tiny_tokenizer()).read([CONVERSATION], recording=recording))
        for model in (tiny_model("llama"), unnamed_head())
    ]
    likelihoods = [reading.turns[0].log_likelihood_T for reading in readings]
    torch.testing.assert_close(likelihoods[0], likelihoods[1])


def test_a_divergence_needs_no_name_of_the_head():
    floors = [Floor(1, unit(V), 1.0)]
    divergences = [
        next(TransformersEngine(model, tiny_tokenizer()).divergence([CONVERSATION], [floors])).kl
        for model in (tiny_model("llama"), unnamed_head())
    ]
    assert divergences[0] > 0.001
    assert abs(divergences[0] - divergences[1]) < 1e-6
