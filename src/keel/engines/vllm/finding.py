"""The decoder layers of a vLLM model, found by structure, and their output sent through ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from keel.engines.vllm.layers import HeldLayer
from keel.errors import ModelLayoutError


def find_layers(model: nn.Module, expected: int) -> dict[int, nn.Module]:
    """Decoder layers of a vLLM model that this process holds, by number.

    Raises ModelLayoutError where there is not exactly one list of `expected` layers, and for
    families whose layers return something else than their stream.
    """
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == expected and _is_decoder(module)
    }
    lists = {  # a layer may hold as many experts as there are layers
        name: module
        for name, module in lists.items()
        if not any(name.startswith(f"{other}.") for other in lists)
    }
    if len(lists) != 1:
        found = ", ".join(lists) or "none"
        raise ModelLayoutError(
            f"looked for one list of {expected} decoder layers in {type(model).__name__}, "
            f"found {found}; this model is not supported under vLLM yet"
        )
    (layers,) = lists.values()
    kept = {n: layer for n, layer in enumerate(layers) if not _is_missing(layer)}
    for layer in kept.values():
        _refuse_known(layer)
    return kept


def wrap(layer: nn.Module, held: HeldLayer) -> None:
    """Send a decoder layer's output through `held`, from the next trace on."""
    kind = type(layer)
    if hasattr(layer, "keel_held"):
        raise ModelLayoutError(f"a {kind.__name__} is held already; wrap a model once")
    layer.keel_held = held

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.keel_held(kind.forward(self, *args, **kwargs))

    layer.__class__ = type(f"Held{kind.__name__}", (kind,), {"forward": forward})


def _is_missing(layer: nn.Module) -> bool:
    return type(layer).__name__ == "PPMissingLayer"


def _is_decoder(layers: nn.ModuleList) -> bool:
    return all(_is_missing(one) or any(True for _ in one.parameters()) for one in layers)


_REFUSED: Mapping[str, str] = {
    "Cohere2Moe": "its second output is not the residual stream",
    "DeepseekV4": "it has several residual streams",
    "Gemma3n": "it has several residual streams",
    "HyV4": "it has several residual streams",
}


def _refuse_known(layer: nn.Module) -> None:
    for prefix, reason in _REFUSED.items():
        if type(layer).__name__.startswith(prefix):
            raise ModelLayoutError(f"{type(layer).__name__} cannot be held under vLLM: {reason}")
