"""An engine on a tiny random model, and things to ask it."""

from __future__ import annotations

from typing import Any

import torch

from keel.engines import Completion, Recording
from keel.engines.transformers import TransformersEngine
from keel.geometry import unit
from keel.testing import tiny_model, tiny_tokenizer
from keel.testing.tiny_models import VOCABULARY_SIZE
from keel.types import Conversation, Message, Prompt, Sampling

SAMPLING = Sampling(max_new_tokens=12, temperature=1.0, top_p=0.95)
TEXTS = ["hello", "what is the sea", "a b c d e f g h i j k l", "who are you", "no", "go on then"]
V = unit(torch.randn(32, generator=torch.Generator().manual_seed(3)))


def engine(family: str = "llama", **more: Any) -> TransformersEngine:
    """An engine whose answers end: a random model hardly ever does so by itself."""
    model = tiny_model(family)
    model.generation_config.eos_token_id = list(range(3, VOCABULARY_SIZE, 12))
    return TransformersEngine(model, tiny_tokenizer(), **more)


def prompts(texts: list[str] = TEXTS) -> list[Prompt]:
    """One prompt per text."""
    return [Prompt(f"q{n}", Conversation((Message("user", t),))) for n, t in enumerate(texts)]


def answers(
    made: TransformersEngine, asked: list[Prompt] | None = None, **more: Any
) -> list[Completion]:
    """Completions in the order of the prompts; means are recorded unless told otherwise."""
    asked = prompts() if asked is None else asked
    arguments = {"seed": 1, "recording": Recording(means=True), **more}
    return sorted(made.generate(asked, SAMPLING, **arguments), key=lambda c: c.index)


def answered(done: list[Completion]) -> list[Conversation]:
    """The conversations of `prompts` with their answers, by their very tokens."""
    pairs = zip(prompts(), done, strict=True)
    return [p.conversation.with_reply(c.text, c.token_ids) for p, c in pairs]
