"""Prompt or generated, real or padding: told apart however the passes are cut."""

import pytest
import torch

from keel.errors import UsageError
from keel.geometry import unit
from keel.steering import PassTokens, recorded, steered
from keel.testing import tiny_model
from keel.types import Floor
from tests.releases import CACHE

V = unit(torch.randn(32, generator=torch.Generator().manual_seed(0)))
IDS = torch.randint(10, 90, (3, 9), generator=torch.Generator().manual_seed(1))


def moved(family: str, tokens: str, ids=IDS, padding: int = 0, **more) -> tuple[int, int]:
    """Slots seen and moved by a floor above everything, over a generation of three tokens."""
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    model = tiny_model(family)
    with steered(model, [Floor(1, V, 1e3, tokens=tokens)]) as steering:
        length = {"max_new_tokens": 3, "min_new_tokens": 3}
        model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **length, **more)
    return steering.firing().slots[1], steering.firing().fired[1]


# A prompt in two or three passes, its sliding layers' masks apart, its cache grown or laid out.
@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("chunk", [{}, {"prefill_chunk_size": 3}], ids=["whole", "in pieces"])
@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}], ids=["grown", "static"])
def test_a_prompt_is_prompt_and_its_padding_nothing(family, chunk, cache):
    seen = {
        tokens: moved(family, tokens, padding=4, **chunk, **cache)
        for tokens in ("all", "prompt", "generated", "not_first")
    }
    # 27 prompt tokens less 4 of padding; 2 of the 3 new tokens go back into the model, in 3 rows.
    # In pieces of 3, the padded row's first token lies in another pass than the others'.
    assert seen == {
        "all": (29, 29),
        "prompt": (29, 23),
        "generated": (29, 6),
        "not_first": (29, 29 - 3),
    }


@pytest.mark.parametrize("tokens", ["prompt", "generated", "not_first"])
def test_a_prompt_of_one_token_is_prompt(tokens):
    # 3 prompt tokens, each the first of its row, and 2 passes of 3 generated ones.
    expected = {"prompt": (9, 3), "generated": (9, 6), "not_first": (9, 6)}
    assert moved("llama", tokens, IDS[:, :1]) == expected[tokens]


def test_a_pass_that_goes_on_from_who_knows_where_is_refused():
    """It might hold the first token of its sequences, and might not."""
    model = tiny_model("llama")
    with (
        pytest.raises(UsageError, match="whether it holds the first token"),
        steered(model, [Floor(1, V, 1.0, tokens="not_first")]),
    ):
        for length in (3, 4):  # a loop without a cache runs the text again, with a token more
            model(input_ids=IDS[:, :length], use_cache=False)


def test_one_pass_can_hold_both_kinds():
    kinds_BT = torch.tensor([[False, True, True]])
    step = PassTokens(3, is_generated=kinds_BT)
    assert step.acting("all") is True
    assert torch.equal(step.acting("generated"), kinds_BT)
    assert torch.equal(step.acting("prompt"), ~kinds_BT)


LENGTH = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "intermediate_size": 64, "initializer_range": 0.2}


def stateful_model(kind: str):
    """A model that keeps what it has read in no cache of keys and values."""
    import transformers as t

    models = {
        "mamba": lambda: t.MambaForCausalLM(t.MambaConfig(**SIZES, state_size=8)),
        "mamba2": lambda: t.Mamba2ForCausalLM(
            t.Mamba2Config(**SIZES, num_heads=4, head_dim=16, state_size=8, n_groups=1)
        ),
        "recurrent_gemma": lambda: t.RecurrentGemmaForCausalLM(
            t.RecurrentGemmaConfig(**SIZES, **HEADS, lru_width=32, attention_window_size=16)
        ),
        "rwkv": lambda: t.RwkvForCausalLM(
            t.RwkvConfig(vocab_size=99, hidden_size=32, num_hidden_layers=3, context_length=64)
        ),
        "mpt": lambda: t.MptForCausalLM(
            t.MptConfig(vocab_size=99, d_model=32, n_heads=4, n_layers=3, max_seq_len=64)
        ),
        "openai-gpt": lambda: t.OpenAIGPTLMHeadModel(
            t.OpenAIGPTConfig(vocab_size=99, n_embd=32, n_layer=3, n_head=4, n_positions=64)
        ),
        "llama": lambda: tiny_model("llama"),
    }
    torch.manual_seed(0)
    return models[kind]().eval()


def kinds_moved(model, run) -> dict[str, int]:
    """Slots moved by a floor above everything, for each kind of token."""
    fired = {}
    for tokens in ("all", "prompt", "generated"):
        with steered(model, [Floor(1, V, 1e3, tokens=tokens)]) as steering, torch.no_grad():
            run(model)
        fired[tokens] = steering.firing().fired[1]
    return fired


@pytest.mark.parametrize(
    ("kind", "cache"),
    [
        ("mamba", {}),
        ("mamba2", {}),
        ("recurrent_gemma", {}),
        ("rwkv", {}),
        ("mpt", {}),
        ("mamba", {"use_cache": False}),
        ("mpt", {"use_cache": True}),
        ("openai-gpt", {"use_cache": True}),
        ("llama", {"num_beams": 2}),
    ],
)
def test_every_kind_of_cache_has_its_prompt_and_its_answer(kind, cache):
    """Once, what had no cache of keys and values was prompt from the first token to the last."""
    model = stateful_model(kind)
    seen = kinds_moved(model, lambda m: m.generate(IDS[:1], **LENGTH, **cache))
    # 9 prompt tokens, in as many beams. 4 of the 5 new tokens go back into the model.
    beams = cache.get("num_beams", 1)
    if kind == "mpt" and not cache:
        cache = {"use_cache": model.config.use_cache}
    # Without a cache, or with one that the model takes no notice of, all is run at each of 5 steps.
    if cache.get("use_cache") is False or kind == "openai-gpt":
        assert seen == {"all": 55, "prompt": 45, "generated": 10}
    else:
        assert seen == {"all": 13 * beams, "prompt": 9 * beams, "generated": 4 * beams}


@pytest.mark.parametrize("padding", [0, 4])
def test_without_a_cache_the_prompt_ends_where_it_did(padding):
    seen = {
        tokens: moved("llama", tokens, padding=padding, use_cache=False)
        for tokens in ("all", "prompt", "generated", "not_first")
    }
    # 3 passes of 9, 10 and 11 tokens in 3 rows, less the padding of each; 0, 1 and 2 are new, and
    # each pass begins its rows anew.
    slots = 90 - 3 * padding
    wanted = {"all": slots, "prompt": 81 - 3 * padding, "generated": 9, "not_first": slots - 9}
    assert seen == {tokens: (slots, fired) for tokens, fired in wanted.items()}


def drafted_by(kind: str) -> dict:
    if kind == "lookup":
        return {"prompt_lookup_num_tokens": 3}
    return {"assistant_model": tiny_model("llama", seed=5)}


@pytest.mark.parametrize("drafts", ["lookup", "assistant"])
def test_drafted_tokens_are_generated_and_answers_are_those_without_drafts(drafts):
    """A floor on generated tokens acts on each that is verified, many in a pass, so that greedy
    decoding says what it says one by one; and so does one on the prompt."""
    model = tiny_model("llama")
    ids = IDS[:1].repeat(1, 2)  # repeats itself, so that a look-up finds drafts
    for tokens in ("prompt", "generated"):
        with steered(model, [Floor(1, V, 3.0, tokens=tokens)]):
            plain = model.generate(ids, **LENGTH)
            drafted = model.generate(ids, **LENGTH, **drafted_by(drafts))
        assert torch.equal(plain, drafted)


def test_a_prompt_that_goes_on_with_a_cache_is_prompt_where_that_ends():
    model = tiny_model("llama")

    def run(m, ids):
        cache = m(ids[:, :5], use_cache=True)[CACHE]
        return m.generate(ids, **{CACHE: cache}, **LENGTH)

    assert kinds_moved(model, lambda m: run(m, IDS[:1])) == {"all": 13, "prompt": 9, "generated": 4}


def test_embeddings_as_a_prompt_are_prompt():
    model = tiny_model("llama")
    embeds = model.get_input_embeddings()(IDS[:1]).detach()
    seen = kinds_moved(model, lambda m: m.generate(inputs_embeds=embeds, **LENGTH))
    assert seen == {"all": 13, "prompt": 9, "generated": 4}


def test_one_call_after_another_has_a_prompt_of_its_own():
    model = tiny_model("llama")

    def run(m):
        m.generate(IDS[:1], **LENGTH)
        m.generate(IDS[:1, :3], **LENGTH)

    assert kinds_moved(model, run) == {"all": 20, "prompt": 12, "generated": 8}


def test_by_hand_the_first_pass_is_the_prompt_and_single_tokens_are_generated():
    model = tiny_model("llama")

    def run(m):
        cache = m(IDS, use_cache=True)[CACHE]
        for token in range(2):
            m(IDS[:, token : token + 1], **{CACHE: cache})

    assert kinds_moved(model, run) == {"all": 33, "prompt": 27, "generated": 6}


def turns(model):
    cache = model(IDS, use_cache=True)[CACHE]
    model(IDS, **{CACHE: cache})


def growing(model):
    model(IDS[:, :5], use_cache=False)
    model(IDS[:, :6], use_cache=False)


def growing_by_several(model):
    model(IDS[:, :5], use_cache=False)
    model(IDS[:, :8], use_cache=False)


def growing_in_embeddings(model):
    embeds = model.get_input_embeddings()(IDS)
    model(inputs_embeds=embeds[:, :5], use_cache=False)
    model(inputs_embeds=embeds[:, :6], use_cache=False)


def in_a_window(model):
    model(IDS[:, :5], use_cache=False)
    model(IDS[:, 1:6], use_cache=False)


RUNS = (turns, growing, growing_by_several, growing_in_embeddings, in_a_window)


@pytest.mark.parametrize("run", RUNS, ids=[run.__name__ for run in RUNS])
@pytest.mark.parametrize("tokens", ["prompt", "generated"])
def test_what_cannot_be_known_is_refused(run, tokens):
    model = tiny_model("llama")
    with (
        steered(model, [Floor(1, V, 1e3, tokens=tokens)]),
        torch.no_grad(),
        pytest.raises(UsageError, match="prompt and which generated.*tokens='all'"),
    ):
        run(model)
    with steered(model, [Floor(1, V, 1e3)]), torch.no_grad():
        run(model)
    with recorded(model), torch.no_grad():
        run(model)
