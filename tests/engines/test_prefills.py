"""An answer that was begun is gone on with; only what the model said itself is its answer."""

from __future__ import annotations

import pytest
import torch

from keel.engines import Recording
from keel.engines.transformers import TransformersEngine
from keel.testing import TINY_FAMILIES, tiny_model, tiny_tokenizer
from keel.types import Conversation, Message, Prompt, Sampling

GREEDY = Sampling(max_new_tokens=8, temperature=0)
BEGINNINGS = ["My purpose is to", "I", "People who know me would say that I am"]


def base_engine(family: str = "llama") -> TransformersEngine:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    return TransformersEngine(tiny_model(family), tokenizer)


def begun() -> list[Prompt]:
    talks = [Conversation((Message("assistant", text),)) for text in BEGINNINGS]
    return [Prompt(f"p{n}", talk) for n, talk in enumerate(talks)]


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_continuation_is_what_transformers_own_generation_says_next(family):
    made = base_engine(family)
    for completion in made.generate(begun(), GREEDY, seed=0):
        ids = made.tokenizer(BEGINNINGS[completion.index], return_tensors="pt").input_ids
        own = made.model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)[0]
        expected = own[ids.shape[1] :].tolist()
        assert list(completion.token_ids) == expected[: len(completion.token_ids)]
        assert completion.text == made.tokenizer.decode(completion.token_ids)


def test_only_the_continuation_is_recorded():
    """Read again as the last turn of the whole, it gives the same means."""
    made, asked = base_engine(), begun()
    done = sorted(
        made.generate(asked, GREEDY, seed=0, recording=Recording(means=True)),
        key=lambda c: c.index,
    )
    whole = [
        p.conversation.with_reply(c.text, c.token_ids) for p, c in zip(asked, done, strict=True)
    ]
    for reading in made.read(whole, recording=Recording(means=True)):
        beginning, last = reading.turns
        completion = done[reading.index]
        assert made.tokenizer.decode(beginning.token_ids) == BEGINNINGS[reading.index]
        assert last.token_ids == completion.token_ids
        assert last.activations.tokens == completion.activations.tokens == len(last.token_ids)
        assert torch.allclose(
            last.activations.means_LD, completion.activations.means_LD, rtol=1e-3, atol=1e-4
        )
