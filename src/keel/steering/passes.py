"""Forward passes of a model: where they begin and end, which tokens each holds, real or padding,
prompt or generated.

With a KV cache a step holds one token, so nothing here is an index into a step's tensor that
would be taken for a position in the conversation.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from keel.steering.blocks import Decoder
from keel.types import TokenMask


@runtime_checkable
class PassListener(Protocol):
    """Callbacks for the forward passes of a model: begin, enter and end, in this order."""

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The model was called. Its outermost call knows the padding and the token ids."""

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The module that runs the blocks was called, with or without an outer call."""

    def end(self, output: Any) -> None:
        """The pass has left the blocks; `output` is what the module that runs them returned."""


def follow_passes(
    model: nn.Module, decoder: Decoder, listener: PassListener, stack: ExitStack
) -> None:
    """Call the listener at every pass from now on; the stack removes exactly these hooks."""

    def begin(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        listener.begin(args, kwargs)

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        listener.enter(args, kwargs)

    def end(_module: nn.Module, _args: Any, output: Any) -> None:
        listener.end(output)

    inner = getattr(model, "_orig_mod", model)
    if inner is not decoder.stack:
        stack.callback(inner.register_forward_pre_hook(begin, with_kwargs=True).remove)
    stack.callback(decoder.stack.register_forward_pre_hook(enter, with_kwargs=True).remove)
    stack.callback(decoder.stack.register_forward_hook(end).remove)


@dataclass(frozen=True)
class PassTokens:
    """The tokens of one forward pass."""

    tokens: int
    """How many it holds, padding included."""
    valid_BT: Bool[Tensor, "batch token"] | None = None
    """False where there is padding; None where all are real."""
    is_generated: bool | Bool[Tensor, "batch token"] = False
    """Whether the tokens were sampled by the model; a tensor where a step holds both kinds."""

    def acting(self, tokens: TokenMask) -> bool | Bool[Tensor, "batch token"]:
        """Where an intervention with this token mask acts."""
        if tokens == "all":
            return True
        if isinstance(self.is_generated, bool):
            return self.is_generated == (tokens == "generated")
        return self.is_generated if tokens == "generated" else ~self.is_generated


def pass_tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> PassTokens:
    """The tokens that a transformer's forward was called with.

    A pass over several tokens is prompt; a single token after others in a cache is generated.
    """
    rows, length = pass_shape(args, kwargs)
    cache = kwargs.get("past_key_values")
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    is_generated = length == 1 and cache is not None and not _is_empty(cache)
    return PassTokens(rows * length, _valid(mask, length, cache), is_generated)


def pass_shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
    """Rows and tokens of the batch that a transformer's forward was called with."""
    inputs = args[0] if args else None
    for name in ("input_ids", "inputs_embeds", "hidden_states"):
        inputs = kwargs.get(name) if inputs is None else inputs
    return (0, 0) if inputs is None else (inputs.shape[0], inputs.shape[1])


def _valid(mask: Any, length: int, cache: Any) -> Bool[Tensor, "batch token"] | None:
    if isinstance(mask, dict):  # one mask per kind of attention, e.g. Gemma's sliding windows
        mask = mask.get("full_attention")
    if not isinstance(mask, Tensor) or length == 1:
        return None
    if mask.ndim == 2:
        return mask[:, -length:].bool()
    # A 4-D mask [B, 1, query, key]: a padded token may not even attend to itself.
    start = 0 if cache is None or _is_empty(cache) else int(cache.get_seq_length())
    own = torch.arange(length, device=mask.device)
    allowed = mask[:, 0, own, start + own]
    return allowed if allowed.dtype == torch.bool else allowed == 0


def _is_empty(cache: Any) -> bool:
    if torch.compiler.is_compiling():
        return False  # the length would be traced into the graph; a lone token is a sampled one
    return int(cache.get_seq_length()) == 0
