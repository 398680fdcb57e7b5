"""Finds the decoder blocks of a transformer by structure. Knows no model by name."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from keel.errors import ModelLayoutError, UsageError
from keel.steering.streams import StreamLayout
from keel.steering.tracing import carrying_lists, outermost

_REMEDY = "Pass the list's path: blocks='model.layers' (in a command: --blocks model.layers)."
_OTHER_TOWERS = ("vision", "visual", "audio", "image", "speech", "encoder")


@dataclass(frozen=True)
class Decoder:
    """The text decoder inside a model: its blocks in order, and the module that runs them."""

    blocks: tuple[nn.Module, ...]
    stack: nn.Module
    """The module whose forward calls the blocks."""
    path: str
    """Where the list of blocks hangs, e.g. `model.layers`."""
    layout: StreamLayout
    """Where the residual stream lies in what a block returns."""

    @property
    def hidden_size(self) -> int | None:
        """Width of the residual stream; None where the model does not say."""
        return self.layout.hidden_size


def find_decoder(model: nn.Module, blocks: str | Sequence[nn.Module] | None = None) -> Decoder:
    """The decoder of a causal language model, also inside a vision wrapper, PEFT or torch.compile.

    `blocks` overrules the search: the dotted path of the list of blocks, or the blocks themselves.
    Raises ModelLayoutError when no list, or more than one, looks like the decoder.
    """
    model = getattr(model, "_orig_mod", model)
    if blocks is not None and not isinstance(blocks, str):
        return Decoder(tuple(blocks), model, "(given)", _layout(model))
    if blocks is not None:
        return _decoder_at(model, blocks)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ModelLayoutError(
            f"{type(model).__name__} has an encoder and a decoder; Keel steers decoder-only "
            "models. " + _REMEDY
        )
    return _decoder_at(model, _decoder_path(model))


def check_fits(decoder: Decoder, layer: int, direction: Tensor, kind: str) -> None:
    """Refuse a layer that the model lacks, or a direction of another width than its stream.

    `kind` names what acts there. Raises UsageError.
    """
    if not 0 <= layer < len(decoder.blocks):
        raise UsageError(
            f"{kind} at layer {layer}, but the model's blocks are 0 to {len(decoder.blocks) - 1}"
        )
    width = direction.shape[-1]
    if decoder.hidden_size is not None and width != decoder.hidden_size:
        raise UsageError(
            f"{kind} at layer {layer} has a direction of {width} numbers, but the model's residual "
            f"stream has {decoder.hidden_size}: another model's?"
        )


def check_ran(silent: Iterable[int]) -> None:
    """Refuse to record where blocks gave nothing; `silent` are the layers that did not run.

    Raises ModelLayoutError, since what stands there in memory is no activation.
    """
    layers = sorted(silent)
    if layers:
        raise ModelLayoutError(
            f"blocks {layers} did not run in a forward pass on text (attention to an image?), so "
            "nothing can be recorded there; record probes at other layers, or pass the blocks that "
            "do run as blocks=[...]"
        )


def _decoder_path(model: nn.Module) -> str:
    """Path of the list as long as the config's number of layers, outermost, outside other towers.

    Where that leaves none or several, the only list that carries the stream when the model runs.
    Raises ModelLayoutError where there is none, or more than one.
    """
    lists = {
        str(name): module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    }
    lengths = _numbers(model, "num_hidden_layers", "n_layer", "num_layers")
    # Towers of other kinds first; then those of an encoder's name, as a decoder's is in BERT.
    for length, towers in itertools.product(lengths, (_OTHER_TOWERS, _OTHER_TOWERS[:-1])):
        fitting = [
            name
            for name, module in lists.items()
            if len(module) == length
            and not any(word in part for part in name.split(".") for word in towers)
        ]
        if len(outermost(fitting)) == 1:
            return outermost(fitting)[0]
        if fitting:
            lists = {name: lists[name] for name in outermost(fitting)}
            break
    running = carrying_lists(model, lists, _layout(model))
    if len(running) == 1:
        return running[0]
    raise ModelLayoutError(
        f"cannot find the decoder blocks of {type(model).__name__}: expected one ModuleList "
        f"{f'of {lengths[0]} blocks ' if lengths else ''}that carries the residual stream, found "
        f"{len(running)}; lists there are: "
        f"{', '.join(f'{name} ({len(each)})' for name, each in lists.items()) or 'none'}. {_REMEDY}"
    )


def _decoder_at(model: nn.Module, path: str) -> Decoder:
    try:
        blocks = model.get_submodule(path)
    except AttributeError as error:
        raise ModelLayoutError(f"{type(model).__name__} has no {path!r}. {_REMEDY}") from error
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise ModelLayoutError(
            f"{path!r} is a {type(blocks).__name__}, expected a non-empty ModuleList. {_REMEDY}"
        )
    stack = model.get_submodule(path.rpartition(".")[0])
    return Decoder(tuple(blocks), stack, path, _layout(model))


def _layout(model: nn.Module) -> StreamLayout:
    streams = _from_config(model, "hc_mult", "hc_count")
    active = _from_config(model, "altup_active_idx")
    return StreamLayout(_from_config(model, "hidden_size", "n_embd", "d_model"), streams, active)


def _from_config(model: nn.Module, *names: str) -> int | None:
    """The first of these numbers that the text model's config has."""
    return next(iter(_numbers(model, *names)), None)


def _numbers(model: nn.Module, *names: str) -> list[int]:
    """Those of these numbers that the text model's config has."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    numbers = (getattr(text, name, None) for name in names)
    return [int(number) for number in numbers if number is not None]
