"""Sorts work by length into batches that fit in memory. Knows lengths, not texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch

from keel.engines.protocol import Budget
from keel.engines.transformers.traits import BatchTraits
from keel.engines.transformers.trial import Trial
from keel.errors import UsageError

_MEMORY_SHARE = 0.5
"""Of the free memory; the rest is for activations inside a block and for other programs."""
_ROWS_CPU = 64
"""Past this many rows a CPU generates no faster, and a batch is what a kill can cost."""
_ROWS_GPU = 512
_SCORE_BYTES_CPU, _SCORE_BYTES_GPU = 16, 48
"""Of a word of the vocabulary while a token is drawn; on a GPU all words are sorted."""
_READ_TOKENS_CPU = 640
_WIDTH_STEP = 8
_READ_TOKENS_GPU = 32768


def budget_for(trial: Trial, hidden_size: int, device: torch.device) -> Budget:
    """What fits in the memory that is free now, going by the cache that a trial run made."""
    is_gpu = device.type != "cpu"
    free = (
        torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else psutil.virtual_memory().available
    ) * _MEMORY_SHARE
    # A row's states that do not grow, and its scores of one step with the copies that sampling
    # makes. Half of the memory is left for what grows with the tokens.
    score_bytes = _SCORE_BYTES_GPU if is_gpu else _SCORE_BYTES_CPU
    row_bytes = trial.cache_bytes_per_row + trial.vocabulary_size * score_bytes
    rows = min(_ROWS_GPU if is_gpu else _ROWS_CPU, max(int(free / 2 / row_bytes), 1))
    # The residual stream of one token, with some copies.
    token_bytes = trial.cache_bytes_per_token + 8 * hidden_size * 4
    tokens = int((free - rows * row_bytes) / token_bytes)
    return Budget(max(tokens, 1), rows, _READ_TOKENS_GPU if is_gpu else _READ_TOKENS_CPU)


def padded_width(length: int) -> int:
    """Columns of a batch whose longest row has so many tokens.

    Few widths mean few shapes: kernels are prepared, and memory is cut up, once for each.
    """
    return -(-length // _WIDTH_STEP) * _WIDTH_STEP


def by_length(
    lengths: Sequence[int], *, new_tokens: int, budget: Budget, pads: bool = True
) -> list[tuple[int, ...]]:
    """Indices grouped into batches of like length and about equal size.

    The longest come first, so that what cannot fit fails at once. The same arguments give the same
    batches. Without `pads`, a batch holds one length only.

    Raises UsageError when one prompt alone does not fit.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[tuple[int, ...]] = []
    while order:
        width = (padded_width(lengths[order[0]]) if pads else lengths[order[0]]) + new_tokens
        if width > budget.tokens:
            raise UsageError(
                f"a prompt of {lengths[order[0]]} tokens with {new_tokens} new ones needs "
                f"{width} tokens of memory, but {budget.tokens} fit; free memory or sample less"
            )
        fitting = min(budget.rows, budget.tokens // width)
        fitting_lengths = [n for n in order if pads or lengths[n] == lengths[order[0]]]
        left = -(-len(fitting_lengths) // fitting)  # batches to come, if all were this long
        rows = -(-len(fitting_lengths) // left)
        batches.append(tuple(order[:rows]))
        order = order[rows:]
    return batches


@dataclass(frozen=True)
class RowGroup:
    """Rows of a batch that a model can run together."""

    indices: list[int]
    width: int
    """Columns, padding included."""


def groups_that_run(lengths: Sequence[int], traits: BatchTraits) -> list[RowGroup]:
    """The rows grouped as the model can take them: together, by length, or each alone.

    As one group where padding does the model no harm, else by length, longest first; each row alone
    where company does it harm.
    """
    if traits.pads_left:
        # A row alone needs no padding, and without any a model may take a faster kernel.
        width = padded_width(max(lengths)) if len(lengths) > 1 else lengths[0]
        return [RowGroup(list(range(len(lengths))), width)]
    by_width: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        by_width.setdefault(lengths[index], []).append(index)
    if traits.has_company:
        return [RowGroup(indices, width) for width, indices in by_width.items()]
    return [RowGroup([index], width) for width, indices in by_width.items() for index in indices]
