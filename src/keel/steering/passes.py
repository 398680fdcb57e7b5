"""Forward passes of a model: where they begin and end, and which tokens each holds.

Tokens are real or padding, prompt or generated.

With a KV cache a step holds one token, so nothing here is an index into a step's tensor that
would be taken for a position in the conversation.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from types import CodeType
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from keel.errors import ModelLayoutError
from keel.steering.blocks import Decoder
from keel.steering.nest import check_inside, in_nest
from keel.types import TokenMask

_CACHES = ("cache", "past_key_values", "cache_params", "state")
"""Names by which models of transformers are given what earlier passes left them."""


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
    """Call the listener at every pass from now on; the stack removes exactly these hooks.

    Raises UsageError where another thread or task has a context open on the model; in a pass,
    UsageError where its task is not inside the context, and ModelLayoutError in a looped model.
    """
    call = _ModelCall()

    def begin(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call.stack_runs = 0
        listener.begin(args, kwargs)

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not is_computed_again():
            call.check_stack_run(decoder.path)
            if not torch.compiler.is_compiling():
                check_inside(decoder.stack)
        listener.enter(args, kwargs)

    def end(_module: nn.Module, _args: Any, output: Any) -> None:
        listener.end(output)

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        call.stack_runs = None

    for hook in (begin, enter, end, leave):
        _compile_only_within(hook.__code__)
    stack.enter_context(in_nest(decoder.stack, listener, enter))
    inner = getattr(model, "_orig_mod", model)
    if inner is not decoder.stack:
        stack.callback(inner.register_forward_pre_hook(begin, with_kwargs=True).remove)
        stack.callback(inner.register_forward_hook(leave, always_call=True).remove)
    stack.callback(decoder.stack.register_forward_hook(end).remove)


class _ModelCall(threading.local):
    """How often the decoder's stack ran in the call of the model that a thread is in."""

    def __init__(self) -> None:
        """Called anew in every thread that looks."""
        self.stack_runs: int | None = None
        """None outside a call of the whole model, as where its stack is called by itself."""

    def check_stack_run(self, path: str) -> None:
        """Count a run; raise ModelLayoutError at the second, of which a layer means several."""
        if self.stack_runs is None:
            return
        self.stack_runs += 1
        if self.stack_runs > 1:
            raise ModelLayoutError(
                f"the blocks at {path!r} run more than once in a forward pass (a looped model); "
                "Keel steers and reads blocks that run once, so that a layer means one activation. "
                "Where it is a wrapper that calls a model several times, give the model inside"
            )


def observers_last(block: nn.Module, stack: ExitStack) -> None:
    """Let hooks of transformers' own run behind all others until the stack is left.

    They observe (`output_hidden_states`) and stay on a model from their first use on, in front of
    whatever is hooked later; they would show a stream that nothing has steered.
    """
    hooks = block._forward_hooks
    order = list(hooks)

    def restore() -> None:
        for key in [*order, *(key for key in hooks if key not in order)]:
            if key in hooks:
                hooks[key] = hooks.pop(key)

    for key in order:
        if str(getattr(hooks[key], "__module__", "")).startswith("transformers."):
            hooks[key] = hooks.pop(key)
    stack.callback(restore)


@dataclass(frozen=True)
class PassTokens:
    """The tokens of one forward pass."""

    tokens: int
    """How many it holds, padding included."""
    valid_BT: Bool[Tensor, "batch token"] | None = None
    """False where there is padding; None where all are real."""
    is_generated: bool | Bool[Tensor, "#batch token"] = False
    """Whether the tokens were sampled by the model; a tensor where a step holds both kinds."""
    is_first: bool | Bool[Tensor, "#batch token"] = False
    """Whether a token is the first of its conversation; a tensor where a pass holds such tokens."""

    def acting(self, tokens: TokenMask) -> bool | Bool[Tensor, "#batch token"]:
        """Where an intervention with this token mask acts."""
        if tokens == "all":
            return True
        if tokens == "not_first":
            return not self.is_first if isinstance(self.is_first, bool) else ~self.is_first
        if isinstance(self.is_generated, bool):
            return self.is_generated == (tokens == "generated")
        return self.is_generated if tokens == "generated" else ~self.is_generated

    def fitted(self, rows: int, length: int) -> PassTokens:
        """The tokens that the blocks run, of which the model was given others.

        What stands before those given is the model's own (prompt tuning), real and no answer; a
        model with a cache may run the last tokens only.
        """
        is_first = _fitted(self.is_first, length, fill=False)
        if isinstance(is_first, Tensor) and length > self.tokens // rows:
            is_first = torch.arange(length, device=is_first.device)[None] == 0
        return PassTokens(
            rows * length,
            _fitted(self.valid_BT, length, fill=True),
            _fitted(self.is_generated, length, fill=False),
            is_first,
        )


def pass_tokens(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    is_generated: bool | Bool[Tensor, "#batch token"] = False,
    start: int | None = None,
) -> PassTokens:
    """The tokens that a transformer's forward was called with, of one kind or of given kinds.

    `start` is how many positions of its sequences lie before it, where that has to be known: it
    tells the first tokens from the others.
    """
    rows, length = pass_shape(args, kwargs)
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    if is_packed(kwargs):  # its mask parts requests, and there is no padding
        mask = None
    valid_BT = _valid(mask, rows, length, cache_given(kwargs))
    is_first: bool | Tensor = False
    if start is not None:
        is_first = _first(mask, valid_BT, start, (rows, length), pass_inputs(args, kwargs))
    return PassTokens(rows * length, valid_BT, is_generated, is_first)


def first_of_rows(valid_BT: Bool[Tensor, "batch token"]) -> Bool[Tensor, "batch token"]:
    """The first token of each row that is no padding."""
    return valid_BT & (valid_BT.cumsum(1) == 1)


def pass_shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
    """Rows and tokens of the batch that a transformer's forward was called with."""
    inputs = pass_inputs(args, kwargs)
    return (0, 0) if inputs is None else (inputs.shape[0], inputs.shape[1])


def pass_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Token ids, or embeddings, that a transformer's forward was called with."""
    inputs = args[0] if args else None
    for name in ("input_ids", "inputs_embeds", "hidden_states"):
        inputs = kwargs.get(name) if inputs is None else inputs
    return inputs if isinstance(inputs, Tensor) else None


def cache_given(kwargs: dict[str, Any]) -> Any:
    """What a pass was given of earlier ones, by any of the names that models have for it."""
    return next((kwargs[name] for name in _CACHES if kwargs.get(name) is not None), None)


def cache_in(output: Any) -> Any:
    """The cache object that a stack of blocks returned, in an output object or a tuple."""
    parts = output if isinstance(output, tuple) else ()
    if isinstance(output, Mapping):  # as the output objects of transformers are
        parts = tuple(output.values())
    named = (getattr(output, name, None) for name in _CACHES)
    counting = (part for part in parts if hasattr(part, "get_seq_length"))
    return next(chain(counting, (part for part in named if hasattr(part, "__dict__"))), None)


def is_packed(kwargs: dict[str, Any]) -> bool:
    """Whether a pass holds several requests in one row, as continuous batching makes them."""
    return kwargs.get("cu_seq_lens_q") is not None


def is_computed_again() -> bool:
    """Whether backward is running: what checkpointing dropped is then computed once more."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _compile_only_within(code: CodeType) -> None:
    """Trace a hook where a graph runs through it, and otherwise run it and what it calls as is.

    The compiler would make graphs of their own of hooks on a compiled model, which lie outside of
    its graph, and guard each by all that they look at.
    """
    frames: Any = torch._C._dynamo.eval_frame
    skip = frames._FrameAction.SKIP
    frames.set_code_exec_strategy(code, frames._FrameExecStrategy(skip, skip))


def _first(
    mask: Any,
    valid_BT: Bool[Tensor, "batch token"] | None,
    start: int,
    shape: tuple[int, int],
    inputs: Tensor | None,
) -> bool | Bool[Tensor, "batch token"]:
    """Which tokens of a pass that begins at `start` are the first of their rows."""
    rows, length = shape
    whole = mask.get("full_attention") if isinstance(mask, dict) else mask
    if isinstance(whole, Tensor) and whole.ndim == 2 and whole.shape == (rows, start + length):
        # A row's first token may lie in a later pass than others', where its padding is long.
        first_BT: Tensor = first_of_rows(whole.bool())[:, start:]
        return first_BT
    if isinstance(whole, Tensor) and whole.ndim == 4 and valid_BT is not None:
        # The first token of a row attends to itself alone.
        allowed = whole[:, 0, :length]
        allowed_BTK = allowed if allowed.dtype == torch.bool else allowed == 0
        return valid_BT & (allowed_BTK.sum(-1) == 1)
    if start > 0:
        return False
    if valid_BT is None:
        device = None if inputs is None else inputs.device
        valid_BT = torch.ones(rows, length, dtype=torch.bool, device=device)
    return first_of_rows(valid_BT)


def _fitted(values: Any, length: int, *, fill: bool) -> Any:
    """The last columns of a tensor [row, token], behind as many filled ones as it lacks."""
    if not isinstance(values, Tensor) or values.shape[1] == length:
        return values
    lacking = max(length - values.shape[1], 0)
    return nn.functional.pad(values[:, -length:], (lacking, 0), value=fill)


def _valid(mask: Any, rows: int, length: int, cache: Any) -> Bool[Tensor, "batch token"] | None:
    if isinstance(mask, dict):  # one mask per kind of attention, e.g. Gemma's sliding windows
        mask = mask.get("full_attention")
    if not isinstance(mask, Tensor) or length == 1 or mask.shape[0] != rows:
        return None
    if mask.ndim == 2:
        return mask[:, -length:].bool()
    # A mask [B, 1, query, key] or without heads: a padded token may not even attend to itself.
    start = 0 if cache is None else cache.get_seq_length()
    own = torch.arange(length, device=mask.device)
    allowed = (mask if mask.ndim == 3 else mask[:, 0])[:, own, start + own]
    return allowed if allowed.dtype == torch.bool else allowed == 0
