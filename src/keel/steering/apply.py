"""Applies interventions to a torch transformer for as long as a context lasts, and counts.

Hooks are plain tensor code on buffers that live on the block's device, so that torch.compile
traces them and no step synchronises with the device. Thresholds meet float32 numbers only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keel.errors import NotAppliedError
from keel.geometry import shift
from keel.steering.blocks import Decoder, check_fits, find_decoder
from keel.steering.interventions import in_order
from keel.steering.passes import PassTokens, follow_passes, pass_tokens
from keel.steering.streams import StreamLayout
from keel.types import Intervention


@contextmanager
def steered(
    model: nn.Module,
    interventions: Iterable[Intervention],
    *,
    blocks: str | Sequence[nn.Module] | None = None,
) -> Iterator[Steering]:
    """Applies interventions to every forward pass of the model inside the context.

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
        if hasattr(model, "_orig_mod"):  # a compiled wrapper's own hooks run at every call
            stack.callback(model.register_forward_pre_hook(steering.note_compiled_call).remove)
        follow_passes(model, decoder, steering, stack)
        for number, layer in steering.layers.items():
            hook = steering.block_hook(layer, decoder.layout)
            stack.callback(decoder.blocks[number].register_forward_hook(hook).remove)
        _forget_compiled()
        yield steering
        steering.firing()  # refuses to end quietly if tokens went past


@dataclass(frozen=True)
class Firing:
    """Tokens seen and tokens moved by a floor or ceiling, per layer."""

    fired: dict[int, int]
    slots: dict[int, int]
    """Tokens on which the layer's interventions could act (padding is not counted)."""

    @property
    def by_layer(self) -> dict[int, float]:
        """Share (0 to 1) of tokens moved at each layer; layers that saw none are left out."""
        return {layer: self.fired[layer] / n for layer, n in self.slots.items() if n}

    @property
    def rate(self) -> float:
        """Share (0 to 1) of all (token, layer) slots moved; 0 where there was none."""
        slots = sum(self.slots.values())
        return sum(self.fired.values()) / slots if slots else 0.0

    def __add__(self, other: Firing) -> Firing:
        layers = sorted({*self.slots, *other.slots})
        return Firing(
            {n: self.fired.get(n, 0) + other.fired.get(n, 0) for n in layers},
            {n: self.slots.get(n, 0) + other.slots.get(n, 0) for n in layers},
        )


def check_reached(firing: Firing | None, layers: Iterable[int]) -> None:
    """Raise NotAppliedError unless every layer that was to be steered saw a token.

    A `firing` of None counted nothing, so no layer is known to have been steered.
    """
    seen = {} if firing is None else firing.slots
    missed = sorted({layer for layer in layers if not seen.get(layer)})
    if missed:
        raise NotAppliedError(
            f"the interventions at layers {missed} saw no token, expected all that passed the "
            "model; do not trust these outputs, load the model again"
        )


class Steering:
    """Interventions at work on one model, and counts of the tokens they saw and moved."""

    def __init__(self, decoder: Decoder, interventions: Sequence[Intervention]) -> None:
        by_layer: dict[int, list[Intervention]] = {}
        for each in interventions:
            check_fits(decoder, each.layer, each.direction, type(each).__name__)
            by_layer.setdefault(each.layer, []).append(each)
        self.layers = {
            layer: _LayerSteering(layer, decoder.blocks[layer], group)
            for layer, group in by_layer.items()
        }
        self.step: PassTokens | None = None
        self.running: PassTokens | None = None
        """The pass that has reached the blocks and has not come to its end."""
        self.marked: PassTokens | None = None
        """Overrides what the model's own arguments say of the tokens of a pass; None does not."""
        first = next(iter(self.layers.values())).seen.device if self.layers else "cpu"
        self.passed = torch.zeros((), dtype=torch.int64, device=first)
        self.compiled_calls = 0

    def firing(self) -> Firing:
        """Tokens seen and moved so far, per layer; synchronises with the device.

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
        """Note the tokens of the pass that starts."""
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

    def note_compiled_call(self, _module: nn.Module, _args: Any) -> None:
        """A compiled model was called, through its hooks or past them."""
        self.compiled_calls += 1

    def block_hook(self, layer: _LayerSteering, layout: StreamLayout) -> Any:
        """The forward hook that replaces a block's output by the steered stream."""

        def hook(_block: nn.Module, _args: Any, output: Any) -> Any:
            hidden = layout.stream_in(output)
            if self.step is None:
                raise NotAppliedError(
                    f"block {layer.number} ran outside a forward pass of its model"
                )
            return layout.put_back(output, layer(hidden, self.step))

        return hook

    def _take_back(self) -> None:
        """Uncount a pass that was broken off: no output came of it."""
        if self.running is None:
            return
        tokens = self.running.tokens
        self.end()
        self.compiled_calls = 0
        self.passed.sub_(tokens)
        for layer in self.layers.values():
            if int(layer.seen) > int(self.passed):
                layer.seen.sub_(tokens)


class _LayerSteering:
    """The interventions of one layer with their buffers on that layer's device."""

    def __init__(self, number: int, block: nn.Module, group: Sequence[Intervention]) -> None:
        self.number = number
        tensor = next(block.parameters(), None)
        device = torch.device("cpu") if tensor is None else tensor.device
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
        seen = hidden_BTD.shape[0] * hidden_BTD.shape[1]
        self.seen.add_(seen)
        valid_BT = None if step.valid_BT is None else step.valid_BT.to(hidden_BTD.device)
        self.slots.add_(seen if valid_BT is None else valid_BT.sum())
        if moved_BT is not None:
            self.fired.add_((moved_BT if valid_BT is None else moved_BT & valid_BT).sum())
        return stream.to(hidden_BTD.dtype)


def _forget_compiled() -> None:
    """Drop compiled graphs: they hold the hooks that were there when they were traced."""
    if "torch._dynamo" in sys.modules and torch._dynamo.utils.counters["frames"]["total"]:
        torch.compiler.reset()
