"""What a model does on a few tokens is known, and said, when it is opened."""

import pytest
import torch
import transformers

from keel.engines.transformers import TransformersEngine
from keel.engines.transformers.batching import budget_for
from keel.engines.transformers.trial import Trial, try_model
from keel.errors import ModelLayoutError
from keel.steering import find_decoder
from keel.testing import tiny_model, tiny_tokenizer
from tests.engines.small import answers

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
}
STATE = {"state_size": 8, "time_step_rank": 4, "conv_kernel": 4}

# Their configs lack a number of heads or a width of heads, or refuse to say it.
UNUSUAL = {
    "gemma4_text": {"vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8},
    "mamba": STATE,
    "falcon_mamba": STATE,
    "mamba2": {**STATE, "num_heads": 8, "n_groups": 1},
    "rwkv": {"attention_hidden_size": 32},
    "xlstm": {"num_heads": 4, "hidden_size": 128},  # its cache rounds widths up to 64
}


def random_model(kind: str, **more):
    """A model of a type, from its config class, with those fields of `SHAPE` that it has."""
    config_class = type(transformers.AutoConfig.for_model(kind))
    shape = {name: value for name, value in SHAPE.items() if hasattr(config_class, name)}
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config_class(**{**shape, **more})).eval()


@pytest.mark.parametrize("kind", UNUSUAL)
def test_models_whose_config_does_not_say_the_size_of_their_cache_are_opened(kind):
    made = TransformersEngine(random_model(kind, **UNUSUAL[kind]), tiny_tokenizer())
    assert made.budget.tokens > 1000
    assert {completion.finish for completion in answers(made)} <= {"stop", "length"}


def tried(model) -> Trial:
    return try_model(model, find_decoder(model), tiny_tokenizer(), CPU)


def test_a_token_costs_what_the_cache_holds_of_it():
    # Keys and values, 4 layers, 2 heads of 8 numbers of 4 bytes.
    trial = tried(tiny_model("llama"))
    assert (trial.cache_bytes_per_token, trial.cache_bytes_per_row) == (2 * 4 * 2 * 8 * 4, 0)


def test_a_state_that_does_not_grow_costs_a_row_and_no_token():
    # 4 layers of (8 states and 4 columns of a convolution) × 64 channels × 4 bytes.
    trial = tried(random_model("mamba", **STATE))
    assert (trial.cache_bytes_per_token, trial.cache_bytes_per_row) == (0, 4 * 12 * 64 * 4)


def test_rows_of_a_large_state_are_few():
    huge = Trial(320, 0, 2**50, ())
    assert budget_for(huge, 32, CPU).rows == 1


def test_a_model_that_fails_on_text_says_so_when_it_is_opened():
    model = tiny_model("llama")
    model.model.layers[2].forward = lambda *_args, **_more: (None,)
    with pytest.raises(ModelLayoutError, match="a decoder block returned NoneType"):
        TransformersEngine(model, tiny_tokenizer())


def test_what_a_model_raises_on_text_is_in_the_message():
    model = tiny_model("llama")

    def refuse(*_args, **_more):
        raise RuntimeError("an image is needed")

    model.model.norm.forward = refuse
    with pytest.raises(ModelLayoutError, match="cannot run on text alone: an image is needed"):
        TransformersEngine(model, tiny_tokenizer())


def test_a_looped_model_is_refused_by_name():
    """A probe would read its last round, a floor would move all of them."""
    model = tiny_model("llama")
    block = model.model.layers[1]
    model.model.layers[2].forward = lambda hidden, **more: block(hidden, **more)
    with pytest.raises(ModelLayoutError, match=r"block 1 runs more than once.*looped"):
        TransformersEngine(model, tiny_tokenizer())


def test_a_model_that_puts_tokens_of_its_own_before_the_text_is_refused_by_name():
    """As peft's prompt tuning does: its predictions, counted from the text's start, are others'."""
    model = tiny_model("llama")
    forward = model.forward

    def prompt_tuned(input_ids, **more):
        if input_ids.shape[1] > 1:
            own = torch.full((len(input_ids), 5), 7)
            input_ids = torch.cat([own, input_ids], 1)
        return forward(input_ids=input_ids, use_cache=more.get("use_cache"))

    model.forward = prompt_tuned
    with pytest.raises(ModelLayoutError, match="9 predictions for 4 tokens.*prompt tuning"):
        TransformersEngine(model, tiny_tokenizer())


def test_a_block_that_does_not_run_on_text_is_known():
    model = tiny_model("llama")
    model.model.layers[2] = Skipped()
    assert tried(model).idle_layers == (2,)


class Skipped(torch.nn.Module):
    """A block that the model goes past."""

    def __call__(self, hidden, **_more):
        return hidden
