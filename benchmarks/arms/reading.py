"""Mean activations of given answers at every layer: Keel's way, and the reference's style.

All arms get the same file of conversations and write [turn, layer, hidden] float32, so that what
they found can be compared. Loading the model and a first small batch are not timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

import keel
from benchmarks.arms.texts import Given, read_conversations
from benchmarks.measuring import measured
from keel.engines import Recording

_WARM_UP = 2
BATCH = 16
"""Rows of a batch in the reference implementation."""


def by_keel(*, model: str, given: str, found: str, dtype: str) -> dict[str, Any]:
    """`engine.read`: sorted by length, no head, sums formed inside the pass."""
    engine = keel.open_engine(model, device="cpu", dtype=dtype)
    conversations = [one.conversation for one in read_conversations(given)]
    means: list[Tensor] = []

    def work() -> None:
        readings = list(engine.read(conversations, recording=Recording(means=True)))
        readings.sort(key=lambda reading: reading.index)
        means.extend(t.activations.means_LD for reading in readings for t in reading.turns)

    list(engine.read(conversations[:_WARM_UP], recording=Recording(means=True)))
    taken = measured(work)
    np.save(found, torch.stack(means).numpy())
    return asdict(taken)


def by_reference_style(*, model: str, given: str, found: str, dtype: str) -> dict[str, Any]:
    """Batches of 16 as they come, the whole model, every layer's output kept and stacked."""
    loaded = load(model, dtype)
    conversations = read_conversations(given)
    means: list[Tensor] = []

    def work() -> None:
        for start in range(0, len(conversations), BATCH):
            means.extend(span_means(loaded, conversations[start : start + BATCH]))

    span_means(loaded, conversations[:_WARM_UP])
    taken = measured(work)
    np.save(found, torch.stack(means).numpy())
    return asdict(taken)


def load(model: str, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()


def dummy(folder: str, device: str) -> Any:
    """A model of a folder's config with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def span_means(model: Any, batch: Sequence[Given]) -> list[Tensor]:
    """Mean activation [layer, hidden] of each assistant turn of a batch, padded on the right."""
    width = max(len(one.token_ids) for one in batch)
    ids_BT = torch.zeros(len(batch), width, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for row, one in enumerate(batch):
        ids_BT[row, : len(one.token_ids)] = torch.tensor(one.token_ids)
        mask_BT[row, : len(one.token_ids)] = 1
    stacked_LBTD = _all_layers(model, ids_BT.to(model.device), mask_BT.to(model.device))
    return [
        stacked_LBTD[:, row, start:stop].float().mean(1)
        for row, one in enumerate(batch)
        for start, stop in one.spans
    ]


def _all_layers(model: Any, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Every block's output for every token. Hooks: the last of `hidden_states` is normed."""
    kept: list[Tensor] = []

    def keep(_block: Any, _args: Any, output: Any) -> None:
        kept.append(output if isinstance(output, Tensor) else output[0])

    handles = [block.register_forward_hook(keep) for block in model.model.layers]
    try:
        with torch.inference_mode():
            model(input_ids=ids_BT, attention_mask=mask_BT)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(kept)
