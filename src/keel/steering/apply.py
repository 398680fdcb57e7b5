"""Applies interventions to a torch transformer for as long as a context lasts.

Hooks are plain tensor code on buffers that live on the block's device, so that torch.compile
traces them and no step waits for the device. Thresholds meet float32 numbers only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from keel.errors import NotAppliedError, UsageError
from keel.geometry import shift
from keel.steering.blocks import Decoder, find_decoder, stream_of
from keel.steering.firing import Firing
from keel.steering.interventions import in_order
from keel.steering.passes import PassTokens, follow_passes, pass_tokens
from keel.types import Intervention


@contextmanager
def steered(
    model: nn.Module,
    interventions: Iterable[Intervention],
    *,
    blocks: str | Sequence[nn.Module] | None = None,
) -> Iterator[Steering]:
    """The model with interventions applied, at every forward pass inside the context.

    Any torch transformer: `model(...)`, `model.generate(...)`, any cache, batch and padding.
    Contexts nest; each takes away only what it brought, also after an exception or Ctrl-C.
    A compiled model is recompiled at entry and exit, since its graph cannot see new hooks.

    `blocks` names the list of decoder blocks where the search for it fails.
    Raises UsageError for a layer or width the model lacks, ModelLayoutError for an unknown
    layout, NotAppliedError when tokens passed the model without passing the interventions.
    """
    decoder = find_decoder(model, blocks)
    steering = Steering(decoder, in_order(interventions))
    with ExitStack() as stack:
        stack.callback(_forget_compiled)
        _attach(model, decoder, steering, stack)
        _forget_compiled()
        yield steering
        steering.firing()  # refuses to end quietly if tokens went past


class Steering:
    """Interventions at work on one model: what they touched so far."""

    def __init__(self, decoder: Decoder, interventions: Sequence[Intervention]) -> None:
        _check(decoder, interventions)
        by_layer: dict[int, list[Intervention]] = {}
        for one in interventions:
            by_layer.setdefault(one.layer, []).append(one)
        self.layers = {
            layer: _SteeredLayer(layer, decoder.blocks[layer], group)
            for layer, group in by_layer.items()
        }
        self.step: PassTokens | None = None
        self.running: PassTokens | None = None
        """The pass that has reached the blocks and has not come to its end."""
        self.marked: PassTokens | None = None
        """Set by whoever knows better than the model's own arguments which tokens a pass holds."""
        first = next(iter(self.layers.values())).seen.device if self.layers else "cpu"
        self.passed = torch.zeros((), dtype=torch.int64, device=first)
        self.compiled_calls = 0

    def firing(self) -> Firing:
        """Tokens seen and moved so far, per layer; waits for the device.

        A pass that was broken off, by an error or Ctrl-C, counts as far as it came.
        Raises NotAppliedError when a layer saw fewer tokens than the model did.
        """
        self._take_back()
        expected = int(self.passed)
        if self.compiled_calls and not expected:
            raise NotAppliedError("the compiled model ran, but not through its hooks; recompile it")
        for number, layer in self.layers.items():
            if int(layer.seen) != expected:
                raise NotAppliedError(
                    f"interventions at layer {number} saw {int(layer.seen)} of {expected} tokens; "
                    "something runs the model past its hooks: do not trust these outputs"
                )
        return Firing(
            {n: int(layer.fired) for n, layer in self.layers.items()},
            {n: int(layer.slots) for n, layer in self.layers.items()},
        )

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take note of the tokens of the pass that starts."""
        self._take_back()
        self.step = self.marked if self.marked is not None else pass_tokens(args, kwargs)

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The pass reaches the blocks: from here on every layer must see its tokens."""
        # The outermost call knows the padding; the stack inside may get only a derived mask.
        if self.step is None or self.running is not None:
            self.begin(args, kwargs)
        assert self.step is not None
        self.passed.add_(self.step.tokens)
        self.running = self.step

    def end(self, output: Any = None) -> None:
        """The pass has left the blocks, behind the last or on purpose before it."""
        self.step = self.running = None

    def _take_back(self) -> None:
        """Expect nothing of a pass that was broken off: no output came of it."""
        if self.running is None:
            return
        tokens = self.running.tokens
        self.end()
        self.compiled_calls = 0
        self.passed.sub_(tokens)
        for layer in self.layers.values():
            if int(layer.seen) > int(self.passed):
                layer.seen.sub_(tokens)


class _SteeredLayer:
    """The interventions of one layer with their buffers on that layer's device."""

    def __init__(self, number: int, block: nn.Module, group: Sequence[Intervention]) -> None:
        self.number = number
        device = _device_of(block)
        self.moves = [
            (each.tokens, each.numbers, each.is_bound, each.direction.to(device, torch.float32))
            for each in group
        ]
        self.seen, self.slots, self.fired = torch.zeros(3, dtype=torch.int64, device=device)

    def __call__(self, hidden_BTD: Tensor, step: PassTokens) -> Tensor:
        """The steered residual stream, in the dtype it came in."""
        stream = hidden_BTD.float()
        moved_BT: Tensor | None = None
        for tokens, numbers, is_bound, direction in self.moves:
            acting = step.acting(tokens)
            if acting is False:
                continue
            amount_BT = shift(stream @ direction, *numbers)
            if acting is not True:
                amount_BT = amount_BT * acting
            stream = stream + amount_BT[..., None] * direction
            if is_bound:
                fired = amount_BT != 0
                moved_BT = fired if moved_BT is None else moved_BT | fired
        self._count(hidden_BTD, step, moved_BT)
        return stream.to(hidden_BTD.dtype)

    def _count(self, hidden_BTD: Tensor, step: PassTokens, moved_BT: Tensor | None) -> None:
        tokens = hidden_BTD.shape[0] * hidden_BTD.shape[1]
        self.seen.add_(tokens)
        valid_BT = None if step.valid_BT is None else step.valid_BT.to(hidden_BTD.device)
        self.slots.add_(tokens if valid_BT is None else valid_BT.sum())
        if moved_BT is not None:
            self.fired.add_((moved_BT if valid_BT is None else moved_BT & valid_BT).sum())


def _attach(model: nn.Module, decoder: Decoder, steering: Steering, stack: ExitStack) -> None:
    """Register our hooks; the stack removes exactly these."""

    def called(_module: nn.Module, _args: Any) -> None:
        steering.compiled_calls += 1

    if hasattr(model, "_orig_mod"):  # hooks on the wrapper are not compiled: they run at every call
        stack.callback(model.register_forward_pre_hook(called).remove)
    follow_passes(model, decoder, steering, stack)
    for number, layer in steering.layers.items():
        hook = _block_hook(layer, steering, decoder.hidden_size)
        stack.callback(decoder.blocks[number].register_forward_hook(hook).remove)


def _block_hook(layer: _SteeredLayer, steering: Steering, hidden_size: int | None) -> Any:
    def hook(_block: nn.Module, _args: Any, output: Any) -> Any:
        hidden = stream_of(output, hidden_size)
        if steering.step is None:
            raise NotAppliedError(f"block {layer.number} ran outside a forward pass of its model")
        moved = layer(hidden, steering.step)
        return moved if isinstance(output, Tensor) else (moved, *output[1:])

    return hook


def _check(decoder: Decoder, interventions: Sequence[Intervention]) -> None:
    for one in interventions:
        if not 0 <= one.layer < len(decoder.blocks):
            raise UsageError(
                f"{type(one).__name__} at layer {one.layer}, but the model's blocks are "
                f"0 to {len(decoder.blocks) - 1}"
            )
        width = one.direction.shape[-1]
        if decoder.hidden_size is not None and width != decoder.hidden_size:
            raise UsageError(
                f"{type(one).__name__} at layer {one.layer} has a direction of {width} numbers, "
                f"but the model's residual stream has {decoder.hidden_size}: another model's?"
            )


def _device_of(block: nn.Module) -> torch.device:
    tensor = next(block.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _forget_compiled() -> None:
    """Drop compiled graphs: they hold the hooks that were there when they were traced."""
    if "torch._dynamo" in sys.modules and torch._dynamo.utils.counters["frames"]["total"]:
        torch.compiler.reset()
