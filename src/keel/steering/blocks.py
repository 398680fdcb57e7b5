"""Finds the decoder blocks of a transformer, and the residual stream in what they return, by
structure. Knows no model by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from keel.errors import ModelLayoutError

_OTHER_TOWERS = ("vision", "visual", "audio", "image", "speech", "encoder")


@dataclass(frozen=True)
class Decoder:
    """The text decoder inside a model: its blocks in order, and the module that runs them."""

    blocks: tuple[nn.Module, ...]
    stack: nn.Module
    """The module whose forward calls the blocks."""
    path: str
    """Where the list of blocks hangs, e.g. `model.layers`."""
    hidden_size: int | None
    """Width of the residual stream; None where the model does not say."""


def find_decoder(model: nn.Module, blocks: str | Sequence[nn.Module] | None = None) -> Decoder:
    """The decoder of a causal language model, also inside a vision wrapper, PEFT or torch.compile.

    `blocks` overrules the search: the dotted path of the list of blocks, or the blocks themselves.
    Raises ModelLayoutError when no list, or more than one, looks like the decoder.
    """
    model = getattr(model, "_orig_mod", model)
    if blocks is not None and not isinstance(blocks, str):
        return Decoder(tuple(blocks), model, "(given)", _hidden_size(model))
    if blocks is not None:
        return _decoder_at(model, blocks)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ModelLayoutError(
            f"{type(model).__name__} has an encoder and a decoder; Keel steers decoder-only "
            "models. " + _remedy()
        )
    found = _candidates(model)
    if len(found) != 1:
        raise ModelLayoutError(_complaint(model, found))
    return _decoder_at(model, found[0])


def stream_of(output: Any, hidden_size: int | None) -> Tensor:
    """The residual stream in what a decoder block returns: a tensor, or the first of a tuple.

    Raises ModelLayoutError for anything else, such as several streams in one tensor.
    """
    hidden = output if isinstance(output, Tensor) else output[0]
    if not isinstance(hidden, Tensor) or hidden.ndim != 3 or hidden_size != hidden.shape[-1]:
        shape = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
        raise ModelLayoutError(
            f"a decoder block returned {shape}, expected one residual stream [batch, token, "
            f"{hidden_size}]; models with several streams are not supported"
        )
    return hidden


def _candidates(model: nn.Module) -> list[str]:
    """Paths of lists as long as the config's number of layers, outermost, outside other towers."""
    expected = _number_of_layers(model)
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == expected
        and not any(word in part for part in name.split(".") for word in _OTHER_TOWERS)
    ]
    return [n for n in lists if not any(n != o and n.startswith(f"{o}.") for o in lists)]


def _decoder_at(model: nn.Module, path: str) -> Decoder:
    try:
        found = model.get_submodule(path)
    except AttributeError as error:
        raise ModelLayoutError(f"{type(model).__name__} has no {path!r}. {_remedy()}") from error
    if not isinstance(found, nn.ModuleList) or len(found) == 0:
        raise ModelLayoutError(
            f"{path!r} is a {type(found).__name__}, expected a non-empty ModuleList. {_remedy()}"
        )
    stack = model.get_submodule(path.rpartition(".")[0])
    return Decoder(tuple(found), stack, path, _hidden_size(model))


def _number_of_layers(model: nn.Module) -> int | None:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("num_hidden_layers", "n_layer", "num_layers"):
        if getattr(text, name, None) is not None:
            return int(getattr(text, name))
    return None


def _hidden_size(model: nn.Module) -> int | None:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("hidden_size", "n_embd", "d_model"):
        if getattr(text, name, None) is not None:
            return int(getattr(text, name))
    return None


def _complaint(model: nn.Module, found: list[str]) -> str:
    expected = _number_of_layers(model)
    lists = [
        f"{name} ({len(module)})"
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    ]
    where = f"lists there are: {', '.join(lists[:8]) or 'none'}"
    if expected is None:
        looked = "its config names no number of layers"
    else:
        looked = f"looked for one ModuleList of {expected} decoder blocks, found {len(found)}"
    return (
        f"cannot find the decoder blocks of {type(model).__name__}: {looked}; {where}. {_remedy()}"
    )


def _remedy() -> str:
    return "Pass the list's path: blocks='model.layers' (in a command: --blocks model.layers)."
