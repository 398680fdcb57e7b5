"""How many tokens a model can read, its context, and the refusal of conversations past it.

Past its context a model with a table of positions fails inside torch, and one with rotary positions
goes on without a word, in positions that it was never trained on. Both engines refuse instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from keel.engines.protocol import Engine
from keel.errors import ContextLengthError
from keel.types import Prompt

_LENGTHS = ("model_max_length", "max_position_embeddings", "max_seq_len", "max_target_positions")
"""Fields of configs that hold the context; the first that a config has counts. Command-R's first is
its true context, and its second a smaller number."""


def context_tokens(model: Any) -> int | None:
    """The context of a transformers model in tokens; None where nothing bounds it.

    Rotary positions that are stretched (linear, dynamic, YaRN) reach as far as they are stretched.
    Sliding windows bound what a token sees, not how long a text may be. Nothing bounds models
    without positions (Mamba) and with linear biases (Bloom, some Falcons). A tokenizer's
    `model_max_length` is not asked: it is no property of the model, and often a stand-in number.
    """
    text = model.config.get_text_config(decoder=True)
    if getattr(text, "alibi", False):
        return None
    lengths = [getattr(text, name, None) for name in _LENGTHS]
    # Configs write -1 for no bound.
    known = [int(length) for length in lengths if isinstance(length, int) and length > 0]
    return _tabled(model, _stretched(text, known[0])) if known else None


def check_context(
    lengths: Iterable[tuple[str, int]], context: int | None, *, new_tokens: int = 0
) -> None:
    """Raise ContextLengthError where a text with its new tokens is longer than the context.

    `lengths` are names of texts (conversations, prompts; for the message) and their tokens.
    """
    if context is None:
        return
    beyond = [(tokens, name) for name, tokens in lengths if tokens + new_tokens > context]
    if not beyond:
        return
    tokens, name = max(beyond)
    others = f", and {len(beyond) - 1} more are too long" if len(beyond) > 1 else ""
    wanted = f" and up to {new_tokens:,} new ones are wanted" if new_tokens else ""
    remedy = " or ask for fewer new tokens (--max-new-tokens)" if new_tokens else ""
    raise ContextLengthError(
        f"{name or 'the conversation'} has {tokens:,} tokens{wanted}, but the model's context "
        f"holds {context:,}{others}; shorten it{remedy}"
    )


def fits_context(engine: Engine, prompt: Prompt, *, new_tokens: int) -> bool:
    """Whether a prompt and so many new tokens fit into the context of the engine's model."""
    tokens = len(engine.template.prompt_ids(prompt.conversation))
    context = getattr(engine, "context_tokens", None)
    return context is None or tokens + new_tokens <= context


def _stretched(text: Any, positions: int) -> int:
    """The context of rotary positions that reach further than the config's own number.

    Llama 3 and LongRoPE count what they stretch in the config's number already, and so do models
    where each type of layer has positions of its own (Gemma 3).
    """
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) not in ("linear", "dynamic", "yarn"):
        return positions
    original = rope.get("original_max_position_embeddings") or positions
    return max(positions, int(original * (rope.get("factor") or 1)))


def _tabled(model: Any, positions: int) -> int:
    """Less the first rows of a table of positions where padding keeps them (RoBERTa)."""
    reserved = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and "position" in name
        and module.padding_idx is not None
        and module.num_embeddings == positions
    ]
    return positions - max(reserved, default=0)
