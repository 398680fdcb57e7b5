"""Sorts work by length into batches that fit in memory. Knows lengths, not texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psutil
import torch

from keel.engines.protocol import Budget
from keel.errors import UsageError

_MEMORY_SHARE = 0.5
"""Of the free memory; the rest is for activations inside a block and for other programs."""
_ROWS_CPU = 64
"""Past this many rows a CPU generates no faster, and a batch is what a kill can cost."""
_ROWS_GPU = 512
_READ_TOKENS_CPU = 640
_WIDTH_STEP = 8
_READ_TOKENS_GPU = 32768


def budget_for(model: Any, device: torch.device) -> Budget:
    """What fits in the memory that is free now."""
    config = model.config.get_text_config()
    is_gpu = device.type != "cpu"
    free = (
        torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else psutil.virtual_memory().available
    )
    rows = _ROWS_GPU if is_gpu else _ROWS_CPU
    # Scores of one step in float32, with the copies that sampling makes.
    scores = rows * config.vocab_size * 4 * 4
    tokens = int((free * _MEMORY_SHARE - scores) / _bytes_per_token(model, config))
    return Budget(max(tokens, 1), rows, _READ_TOKENS_GPU if is_gpu else _READ_TOKENS_CPU)


def padded_width(length: int) -> int:
    """Columns of a batch whose longest row has so many tokens.

    Few widths mean few shapes: kernels are prepared, and memory is cut up, once for each.
    """
    return -(-length // _WIDTH_STEP) * _WIDTH_STEP


def by_length(lengths: Sequence[int], *, new_tokens: int, budget: Budget) -> list[tuple[int, ...]]:
    """Indices grouped into batches of like length and about equal size.

    The longest come first, so that what cannot fit fails at once. The same arguments give the same
    batches.

    Raises UsageError when one prompt alone does not fit.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[tuple[int, ...]] = []
    while order:
        width = padded_width(lengths[order[0]]) + new_tokens
        if width > budget.tokens:
            raise UsageError(
                f"a prompt of {lengths[order[0]]} tokens with {new_tokens} new ones needs "
                f"{width} tokens of memory, but {budget.tokens} fit; free memory or sample less"
            )
        fitting = min(budget.rows, budget.tokens // width)
        left = -(-len(order) // fitting)  # batches still to come, if all were this long
        rows = -(-len(order) // left)
        batches.append(tuple(order[:rows]))
        order = order[rows:]
    return batches


def _bytes_per_token(model: Any, config: Any) -> int:
    """Keys and values of one token at all layers, and its residual stream with some copies."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = model.dtype.itemsize
    return int(2 * config.num_hidden_layers * heads * width * size + 8 * config.hidden_size * 4)
