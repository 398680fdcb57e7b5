"""Keeps keys and values of a batch's prompts: prompts that go on from them start from there.

Only what prompts gave is kept, never what was computed token by token while answering: the same
prompts in the same order give the same bits, whether their answers were made in this process or
read from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from keel.engines.transformers.running import cache_name
from keel.steering import Intervention


@dataclass(frozen=True)
class PaddedPrompts:
    """Left-padded prompts, of which the first columns may have been computed before."""

    ids_BT: Int[Tensor, "row token"]
    mask_BT: Int[Tensor, "row token"]
    past: Cache | None = None
    """Keys and values of the first columns; None where all are to be computed."""

    @property
    def past_width(self) -> int:
        """Columns that need not be computed."""
        return 0 if self.past is None else int(self.past.get_seq_length())


@dataclass
class PromptTokens:
    """How many tokens of prompts an engine was given, and how many it computed."""

    given: int = 0
    computed: int = 0
    """Without padding."""

    def count(self, rows: Sequence[Sequence[int]], batch: PaddedPrompts) -> None:
        """Add a batch."""
        self.given += sum(map(len, rows))
        self.computed += int(batch.mask_BT[:, batch.past_width :].sum())


@dataclass(frozen=True)
class KeptPrompts:
    """The prompts of the batch that was computed last, with their keys and values."""

    rows: tuple[tuple[int, ...], ...]
    batch: PaddedPrompts
    """Its `past` is not used."""
    cache: Cache
    """A copy, to which nothing is added."""
    interventions: tuple[Intervention, ...]

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int]],
        batch: PaddedPrompts,
        state: dict[str, Any],
        interventions: Sequence[Intervention],
    ) -> KeptPrompts | None:
        """What a model kept of a batch; None where it keeps other than all keys and values."""
        cache = state[cache_name(state)]
        layers = getattr(cache, "layers", ())
        if not layers or any(type(layer) is not DynamicLayer for layer in layers):
            return None
        kept = _changed(cache, lambda tensor: tensor)
        return cls(tuple(map(tuple, rows)), batch, kept, tuple(interventions))

    def continued(
        self, rows: Sequence[Sequence[int]], pad: int, interventions: Sequence[Intervention]
    ) -> PaddedPrompts | None:
        """The batch of prompts each of which goes on from one of these, in their order.

        None where some does not, or where the model was steered otherwise.
        """
        pairs = zip(interventions, self.interventions, strict=False)
        if len(interventions) != len(self.interventions) or any(a is not b for a, b in pairs):
            return None
        sources: list[int] = []
        for row in rows:
            after = sources[-1] + 1 if sources else 0
            source = next((n for n in range(after, len(self.rows)) if self._begins(n, row)), None)
            if source is None:
                return None
            sources.append(source)
        device = self.batch.ids_BT.device
        chosen = torch.tensor(sources, device=device)
        added = [row[len(self.rows[n]) :] for n, row in zip(sources, rows, strict=True)]
        width = max(map(len, added))
        ids_BT = torch.full((len(rows), width), pad)
        mask_BT = torch.zeros(len(rows), width, dtype=torch.long)
        for index, tokens in enumerate(added):
            ids_BT[index, width - len(tokens) :] = torch.tensor(tokens)
            mask_BT[index, width - len(tokens) :] = 1
        past = _changed(self.cache, lambda tensor: tensor.index_select(0, chosen.to(tensor.device)))
        return PaddedPrompts(
            torch.cat([self.batch.ids_BT[chosen], ids_BT.to(device)], 1),
            torch.cat([self.batch.mask_BT[chosen], mask_BT.to(device)], 1),
            past,
        )

    def _begins(self, number: int, row: Sequence[int]) -> bool:
        """Whether a kept prompt is the beginning of this one, which is longer."""
        kept = self.rows[number]
        return len(row) > len(kept) and tuple(row[: len(kept)]) == kept


def _changed(cache: Cache, change: Callable[[Tensor], Tensor]) -> Cache:
    """A copy of a cache with other keys and values; it bears the marks of what made the first."""
    other = copy(cache)
    other.layers = []
    for layer in cache.layers:
        changed = copy(layer)
        changed.keys, changed.values = change(layer.keys), change(layer.values)
        other.layers.append(changed)
    return other
