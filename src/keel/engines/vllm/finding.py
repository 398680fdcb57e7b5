"""Which modules of a vLLM model are its decoder layers. Knows no interventions."""

from __future__ import annotations

from torch import nn

from keel.errors import ModelLayoutError


def find_layers(model: nn.Module, expected: int) -> dict[int, nn.Module]:
    """Decoder layers of a vLLM model that this process has, by number.

    Of a model that also sees or hears, those of its language model.
    Raises ModelLayoutError where there is not exactly one list of `expected` layers.
    """
    lists = _layer_lists(_language_model(model), expected)
    if len(lists) != 1:
        names = ", ".join(lists) or "none"
        raise ModelLayoutError(
            f"looked for one list of {expected} decoder layers in {type(model).__name__}, "
            f"found {names}; this model is not supported under vLLM yet"
        )
    (layers,) = lists.values()
    return {n: layer for n, layer in enumerate(layers) if not _is_missing(layer)}


def _layer_lists(model: nn.Module, expected: int) -> dict[str, nn.ModuleList]:
    """Lists of `expected` modules with weights that lie in no other such list, by name.

    Of lists that hold the same layers (Gemma 4 cuts its own in two for shared keys, and one of the
    two can be empty), the first.
    """
    lists: dict[str, nn.ModuleList] = {}
    held = set[tuple[int, ...]]()
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) != expected:
            continue
        layers = tuple(id(layer) for layer in module)
        is_inner = any(name.startswith(f"{outer}.") for outer in lists)  # experts of a layer
        has_weights = all(
            _is_missing(layer) or any(True for _ in layer.parameters()) for layer in module
        )
        if has_weights and not is_inner and layers not in held:
            lists[name] = module
            held.add(layers)
    return lists


def _language_model(model: nn.Module) -> nn.Module:
    """The part of a model that reads text; the whole of one that does nothing else."""
    if not hasattr(model, "get_language_model"):
        return model
    try:
        part: nn.Module = model.get_language_model()  # type: ignore[operator]
    except NotImplementedError:
        return model
    # A model of transformers' own is given back whole; what it calls `model` is the part.
    inner = getattr(part, "model", None)
    return inner if isinstance(inner, nn.Module) else part


def _is_missing(layer: nn.Module) -> bool:
    """Whether another pipeline stage has the layer."""
    return type(layer).__name__ == "PPMissingLayer"
