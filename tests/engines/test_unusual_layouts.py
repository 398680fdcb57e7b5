"""Models whose parts hang together in another way than in most are read all the same."""

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from keel.engines import Probe, Recording
from keel.engines.transformers import TransformersEngine
from keel.errors import ModelLayoutError
from keel.geometry import unit
from keel.steering import StreamSums
from keel.testing import tiny_model, tiny_tokenizer
from keel.types import Floor
from tests.engines.small import V, answers, prompts

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


class Skipped(torch.nn.Module):
    """A block that the model goes past, as past attention to an image where there is none."""

    def __call__(self, hidden, **_more):
        return hidden


RECORDINGS = {"means": Recording(means=True), "a probe there": Recording(probes=(Probe(2, V),))}


def engine_past_a_block() -> TransformersEngine:
    model = tiny_model("llama")
    model.model.layers[2] = Skipped()
    return TransformersEngine(model, tiny_tokenizer())


@pytest.mark.parametrize("recording", RECORDINGS.values(), ids=RECORDINGS)
def test_nothing_is_recorded_of_a_block_that_did_not_run(recording):
    """Uninitialised memory was: Mllama has blocks that attend to an image only."""
    made = engine_past_a_block()
    with pytest.raises(ModelLayoutError, match=r"blocks \[2\] did not run"):
        answers(made, recording=recording)
    with pytest.raises(ModelLayoutError, match=r"blocks \[2\] did not run"):
        list(made.read([CONVERSATION], recording=recording))


class Leaving(torch.nn.Module):
    """A block that runs `runs` times more, and then the model goes past it."""

    def __init__(self, block):
        super().__init__()
        self.block, self.runs = block, 10**6

    def forward(self, hidden, *args, **more):
        return self.block(hidden, *args, **more)

    def __call__(self, hidden, *args, **more):
        self.runs -= 1
        return super().__call__(hidden, *args, **more) if self.runs >= 0 else hidden


@pytest.mark.parametrize("runs", [0, 1, 3])
@pytest.mark.parametrize("recording", RECORDINGS.values(), ids=RECORDINGS)
def test_nothing_is_recorded_of_a_token_at_which_a_block_did_not_run(recording, runs):
    """Once, a block that had run before was recorded with its latest token's numbers again."""
    model = tiny_model("llama")
    model.model.layers[2] = block = Leaving(model.model.layers[2])
    made = TransformersEngine(model, tiny_tokenizer())
    answers(made, recording=recording)
    block.runs = runs  # the first is the prompts'
    with pytest.raises(ModelLayoutError, match=r"blocks \[2\] did not run"):
        answers(made, recording=recording)


def test_blocks_that_did_run_are_recorded_beside_those_that_did_not():
    made, recording = engine_past_a_block(), Recording(probes=(Probe(1, V),))
    assert all(c.projections_TK.abs().min() > 0 for c in answers(made, recording=recording))
    (reading,) = made.read([CONVERSATION], recording=recording)
    assert reading.turns[0].projections_TK.abs().min() > 0


def test_sums_of_a_layer_that_was_not_put_are_no_numbers():
    sums = StreamSums(2, 1, 4, torch.device("cpu"))
    sums.put(0, torch.ones(1, 4))
    sums.add_latest(torch.ones(1))
    assert sums.sums_LBD.isnan().any(-1).tolist() == [[False], [True]]
