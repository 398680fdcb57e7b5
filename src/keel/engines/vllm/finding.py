"""Which modules of a vLLM model are its decoder layers. Knows no interventions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from keel.errors import ModelLayoutError

_REFUSED: Mapping[str, str] = {
    "Cohere2Moe": "its second output is not the residual stream",
    "DeepseekV4": "it has several residual streams",
    "Gemma3n": "it has several residual streams",
    "HyV4": "it has several residual streams",
}
"""Families whose layers return something else than their one residual stream."""


def find_layers(model: nn.Module, expected: int) -> dict[int, nn.Module]:
    """Decoder layers of a vLLM model that this process has, by number.

    Raises ModelLayoutError where there is not exactly one list of `expected` layers, and for
    families whose layers return something else than their stream.
    """
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == expected
        and all(_is_missing(layer) or any(True for _ in layer.parameters()) for layer in module)
    }
    lists = {  # a layer may hold as many experts as there are layers
        name: module
        for name, module in lists.items()
        if not any(name.startswith(f"{other}.") for other in lists)
    }
    if len(lists) != 1:
        names = ", ".join(lists) or "none"
        raise ModelLayoutError(
            f"looked for one list of {expected} decoder layers in {type(model).__name__}, "
            f"found {names}; this model is not supported under vLLM yet"
        )
    (layers,) = lists.values()
    kept = {n: layer for n, layer in enumerate(layers) if not _is_missing(layer)}
    for kind in {type(layer).__name__ for layer in kept.values()}:
        for prefix, reason in _REFUSED.items():
            if kind.startswith(prefix):
                raise ModelLayoutError(f"{kind} cannot be held under vLLM: {reason}")
    return kept


def _is_missing(layer: nn.Module) -> bool:
    """Whether another pipeline stage has the layer."""
    return type(layer).__name__ == "PPMissingLayer"
