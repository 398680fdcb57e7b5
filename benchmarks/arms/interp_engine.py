"""Mean activations of given answers by interp-engine: its `capture`, prompt by prompt.

Runs in that library's own environment, where Keel is not installed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interp_engine import capture, load_model

from benchmarks.measuring import measured

_WARM_UP = 2


def by_interp_engine(*, model: str, given: str, found: str, dtype: str) -> dict[str, Any]:
    """One `capture` of the residual stream after every block, per conversation.

    Its default, eager attention, is for reading attention probabilities; nothing here does, so it
    gets the faster kernel, as every other arm.
    """
    engine = load_model(
        model, backend="eager", device="cpu", dtype=dtype, attn_implementation="sdpa"
    )
    rows = json.loads(Path(given).read_text(encoding="utf-8"))
    means: list[torch.Tensor] = []

    def work() -> None:
        for row in rows:
            means.extend(_turn_means(engine, row))

    for row in rows[:_WARM_UP]:
        _turn_means(engine, row)
    taken = measured(work)
    np.save(found, torch.stack(means).numpy())
    return asdict(taken)


def _turn_means(engine: Any, row: dict[str, Any]) -> list[torch.Tensor]:
    """Mean activation [layer, hidden] of each assistant turn of one conversation."""
    points = [f"resid_post.{layer}" for layer in range(engine.n_layers)]
    cache = capture(engine, torch.tensor([row["token_ids"]]), points)
    return [
        torch.stack([cache[point][0, start:stop].float().mean(0) for point in points])
        for start, stop in row["spans"]
    ]
