"""Sees by a tiny forward pass which lists of modules carry a model's residual stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from keel.errors import ModelLayoutError
from keel.steering.streams import StreamLayout

_TOKENS = 5


def carrying_lists(
    model: Any, lists: Mapping[str, nn.ModuleList], layout: StreamLayout
) -> list[str]:
    """Names of the outermost lists of whose modules some run on text, and all that run return
    the residual stream. None where the model cannot run on text alone.
    """
    carrying: dict[str, bool] = {}

    def hook_for(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            try:
                is_stream = layout.stream_in(output).shape[:2] == (1, _TOKENS)
            except (ModelLayoutError, IndexError, KeyError, TypeError):
                is_stream = False
            carrying[name] = carrying.get(name, True) and is_stream

        return hook

    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if embedding is None:
        return []
    ids = torch.arange(_TOKENS, device=embedding.weight.device)[None]
    with ExitStack() as stack, torch.random.fork_rng(), torch.no_grad():
        for name, modules in lists.items():
            for module in modules:
                stack.callback(module.register_forward_hook(hook_for(name)).remove)
        try:
            model(input_ids=ids, use_cache=False)
        except (
            Exception
        ):  # whatever it is: such a model shows nothing, and is refused by its caller
            return []
    return outermost(name for name, is_stream in carrying.items() if is_stream)


def outermost(names: Iterable[str]) -> list[str]:
    """Those module names that lie under no other of them."""
    names = list(names)
    return [n for n in names if not any(n != m and n.startswith(f"{m}.") for m in names)]
