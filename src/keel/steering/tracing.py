"""Sees by a tiny forward pass which lists of modules carry a model's residual stream."""

from __future__ import annotations

from collections import Counter
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
    """Names of the outermost lists of modules that carry the residual stream.

    Lists of whose modules some run on text, and all that run return the stream. None where the
    model cannot run on text alone.

    Raises ModelLayoutError where such a list's modules run more than once (a looped model).
    """
    carrying: dict[str, bool] = {}
    runs: Counter[tuple[str, nn.Module]] = Counter()

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            runs[name, module] += 1
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
    running = outermost(name for name, is_stream in carrying.items() if is_stream)
    _refuse_loops({name: max(runs[name, module] for module in lists[name]) for name in running})
    return running


def _refuse_loops(runs: Mapping[str, int]) -> None:
    """Raise ModelLayoutError for lists of blocks that ran more often than once in a pass."""
    looped = [f"{name!r} {count} times" for name, count in runs.items() if count > 1]
    if looped:
        raise ModelLayoutError(
            f"blocks run more than once in a forward pass (a looped model): {', '.join(looped)}; "
            "Keel steers and reads blocks that run once, so that a layer means one activation"
        )


def outermost(names: Iterable[str]) -> list[str]:
    """Those module names that lie under no other of them."""
    names = list(names)
    return [n for n in names if not any(n != m and n.startswith(f"{m}.") for m in names)]
