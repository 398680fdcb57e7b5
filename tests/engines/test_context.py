"""What a model's context cannot hold is refused with the numbers, before anything runs."""

from __future__ import annotations

import pytest
import torch
import transformers

from keel.engines import Recording
from keel.engines.context import context_tokens
from keel.engines.transformers import TransformersEngine
from keel.errors import ContextLengthError
from keel.geometry import unit
from keel.steering import Probe
from keel.testing import tiny_model, tiny_tokenizer
from keel.types import Conversation, Floor, Message, Prompt, Sampling

V = unit(torch.ones(32))
PROBED = Recording(probes=(Probe(0, V),))


class _Configured:
    """As much of a model as says how long its context is."""

    def __init__(self, config: transformers.PretrainedConfig, *tables: torch.nn.Module) -> None:
        self.config, self.tables = config, tables

    def named_modules(self):
        return [("embeddings.position_embeddings", table) for table in self.tables]


def context_of(family: str, **fields) -> int | None:
    return context_tokens(_Configured(transformers.AutoConfig.for_model(family, **fields)))


def engine(context: int = 64, family: str = "gpt2") -> TransformersEngine:
    model = tiny_model(family)
    model.config.max_position_embeddings = context
    return TransformersEngine(model, tiny_tokenizer())


def said(text: str, answer: str | None = None) -> Conversation:
    asked = Conversation((Message("user", text),), "talk")
    return asked if answer is None else asked.with_reply(answer)


def prompt(tokens: int) -> Prompt:
    """A prompt of so many tokens: one per letter, and the template's."""
    bare = len(engine().template.prompt_ids(said("")))
    return Prompt("q", said("x" * (tokens - bare)))


@pytest.mark.parametrize(
    ("family", "fields", "context"),
    [
        ("llama", {"max_position_embeddings": 2048}, 2048),
        ("gpt2", {"n_positions": 1024}, 1024),
        ("mpt", {"max_seq_len": 2048}, 2048),
        ("gemma3", {}, 131072),  # in the config of its text
        ("mistral", {"max_position_embeddings": 32768, "sliding_window": 4096}, 32768),
        ("mamba", {}, None),
        ("bloom", {"seq_length": 2048}, None),
        ("falcon", {"alibi": True}, None),
        ("falcon", {"alibi": False, "max_position_embeddings": 2048}, 2048),
        ("xlnet", {}, None),  # its config says -1
        ("cohere", {"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
    ],
)
def test_the_context_is_what_bounds_positions_not_what_a_token_sees(family, fields, context):
    assert context_of(family, **fields) == context


@pytest.mark.parametrize(
    ("rope", "positions", "context"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 4096, 16384),
        ({"rope_type": "dynamic", "factor": 2.0}, 4096, 8192),
        # Qwen leaves the number of positions, DeepSeek raises it.
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            32768,
            131072,
        ),
        (
            {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096},
            163840,
            163840,
        ),
        # Llama 3.2: 32 × 8192 would be twice its context.
        (
            {
                "rope_type": "llama3",
                "factor": 32.0,
                "original_max_position_embeddings": 8192,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
            131072,
            131072,
        ),
    ],
)
def test_stretched_positions_reach_as_far_as_they_are_stretched(rope, positions, context):
    rope = {"rope_theta": 10000.0, **rope}
    assert context_of("llama", max_position_embeddings=positions, rope_parameters=rope) == context


def test_layers_with_positions_of_their_own_leave_the_models_number():
    """Gemma 3 stretches its global layers alone, and names what comes of it."""
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    fields = {"max_position_embeddings": 131072, "rope_parameters": rope}
    assert context_of("gemma3_text", **fields) == 131072


def test_rows_of_a_position_table_that_padding_keeps_are_not_counted():
    """RoBERTa's 514 rows hold 512 tokens; the 513th ended in an IndexError."""
    config = transformers.RobertaConfig(
        vocab_size=99,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
        is_decoder=True,
    )
    model = transformers.RobertaForCausalLM(config)
    assert context_tokens(model) == 32
    model(input_ids=torch.full((1, 32), 7))  # and they run


def test_an_answer_that_fills_the_context_to_its_last_token_is_sampled_and_read():
    made = engine(64)
    asked = prompt(54)
    sampling = Sampling(max_new_tokens=10, temperature=1.0)
    (done,) = made.generate([asked], sampling, seed=0, recording=PROBED)
    assert len(done.token_ids) == 10
    whole = asked.conversation.with_reply(done.text, done.token_ids)
    (reading,) = made.read([whole], recording=PROBED)
    assert len(reading.turns[0].token_ids) == 10


def test_a_prompt_that_leaves_too_little_room_is_refused_with_the_numbers():
    """smollm2 went on past its 8,192 positions without a word, and GPT-2 ended in an IndexError."""
    made = engine(64)
    sampling = Sampling(max_new_tokens=10)
    expected = "q has 55 tokens and up to 10 new ones are wanted, .* context holds 64; shorten it"
    for run in (
        lambda: made.plan([prompt(20), prompt(55)], sampling),
        lambda: list(made.generate([prompt(55)], sampling, seed=0)),
    ):
        with pytest.raises(ContextLengthError, match=expected):
            run()


def test_a_given_conversation_past_the_context_is_refused_by_its_name():
    made = engine(64, "llama")
    long = said("hello", "x" * 99)
    expected = r"talk has 1\d\d tokens, but the model's context holds 64; shorten it$"
    with pytest.raises(ContextLengthError, match=expected):
        list(made.read([said("hello", "hello"), long], recording=PROBED))
    with pytest.raises(ContextLengthError, match=r"holds 64, and 1 more are too long; shorten it$"):
        list(made.read([long, long], recording=PROBED))
    with pytest.raises(ContextLengthError, match=expected):
        list(made.divergence([long], [[Floor(0, V, 1.0)]]))


def test_nothing_is_refused_where_nothing_bounds_the_positions():
    made = engine(64, "llama")
    made.context_tokens = None
    (reading,) = made.read([said("hello", "x" * 99)], recording=PROBED)
    assert len(reading.turns[0].token_ids) == 99
