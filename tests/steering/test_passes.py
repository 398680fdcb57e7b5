"""Prompt or generated, real or padding: told apart however the passes are cut."""

import pytest
import torch

from keel.geometry import unit
from keel.steering import PassTokens, steered
from keel.testing import tiny_model
from keel.types import Floor

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
        for tokens in ("all", "prompt", "generated")
    }
    # 27 prompt tokens less 4 of padding; 2 of the 3 new tokens go back into the model, in 3 rows.
    assert seen == {"all": (29, 29), "prompt": (29, 23), "generated": (29, 6)}


@pytest.mark.parametrize("tokens", ["prompt", "generated"])
def test_a_prompt_of_one_token_is_prompt(tokens):
    # 3 prompt tokens, and 2 passes of 3 generated ones.
    expected = {"prompt": (9, 3), "generated": (9, 6)}
    assert moved("llama", tokens, IDS[:, :1]) == expected[tokens]


def test_one_pass_can_hold_both_kinds():
    kinds_BT = torch.tensor([[False, True, True]])
    step = PassTokens(3, is_generated=kinds_BT)
    assert step.acting("all") is True
    assert torch.equal(step.acting("generated"), kinds_BT)
    assert torch.equal(step.acting("prompt"), ~kinds_BT)
