"""Applies interventions to a torch transformer for as long as a context lasts, and counts.

Hooks are plain tensor code on buffers that live on the block's device, so that torch.compile
traces them and no step synchronises with the device. Thresholds meet float32 numbers only.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from keel.errors import NotAppliedError, UsageError
from keel.geometry import shift
from keel.steering.blocks import Decoder, check_fits, find_decoder
from keel.steering.interventions import in_order
from keel.steering.origins import CacheOrigins
from keel.steering.passes import (
    PassTokens,
    cache_given,
    cache_in,
    follow_passes,
    is_computed_again,
    observers_last,
    pass_inputs,
    pass_shape,
    pass_tokens,
)
from keel.steering.sequences import SequenceFollower, refuse_to_leave
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

    Any torch transformer whose blocks run once a pass: `model(...)`, `model.generate(...)`, any
    cache, batch and padding, from any thread; in training, what backward computes again is steered
    again and counted once.
    Contexts nest; each takes away only what it brought, also after an exception or Ctrl-C.
    A compiled model is recompiled at entry and exit, since its graph cannot see new hooks.

    Where a prompt is to be steered, a cache that other interventions made, or none, is refused;
    not seen are states that a model keeps in its blocks or a list, tokens taken back and made anew
    outside, caches given by position, and what runs in graphs of torch.compile. "prompt" and
    "generated" are told apart by `generate`; by hand, the first pass is prompt, and a single token
    that goes on with a cache is generated.

    `blocks` names the list of decoder blocks where the search for it fails.
    Raises UsageError for a layer or width the model lacks, ModelLayoutError for an unknown
    layout, NotAppliedError when tokens passed the model without passing the interventions or a
    thread still generates at the end. UsageError, too, where nothing tells prompt from generated
    tokens, where a thread or task that is not inside has a context open on the model, and in a
    pass of a task that is not inside.
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
            observers_last(decoder.blocks[number], stack)
        _forget_compiled()
        yield steering
        refuse_to_leave(decoder.stack, "steered")
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
            layer: _LayerSteering(layer, _device_of(decoder.blocks[layer]), group)
            for layer, group in by_layer.items()
        }
        self.marked: PassTokens | None = None
        """Overrides what the model's own arguments say of the tokens of a pass; None does not."""
        self.has_marked_gradients = False
        """Whether a pass was marked of which backward may compute blocks again."""
        self.compiled_calls = 0
        self._origins = CacheOrigins(interventions)
        self._tallies: list[_Tally] = []
        devices = {number: layer.device for number, layer in self.layers.items()}
        self._here = _ThreadState(decoder.stack, devices, self._tallies)

    def firing(self) -> Firing:
        """Tokens seen and moved so far, per layer; synchronises with the device.

        A pass that was broken off, by an error or Ctrl-C, counts as far as it came; so does a pass
        that another thread is running. Raises NotAppliedError when a layer saw fewer tokens than
        the model did.
        """
        self._take_back()
        if self.compiled_calls and not any(int(tally.passed) for tally in self._tallies):
            raise NotAppliedError("the compiled model ran, but not through its hooks; recompile it")
        for tally in self._tallies:
            tally.check_seen()
        return Firing(
            {n: sum(int(tally.layers[n].fired) for tally in self._tallies) for n in self.layers},
            {n: sum(int(tally.layers[n].slots) for tally in self._tallies) for n in self.layers},
        )

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the tokens of the pass that starts."""
        self._take_back()
        if self.marked is not None:
            self.has_marked_gradients |= torch.is_grad_enabled()
            self._here.step = self.marked
        else:
            self._here.step = self._step(args, kwargs)

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The pass reaches the blocks: from here on every layer must see its tokens."""
        tally = self._here.tally
        # The outermost call knows the padding; the stack inside may get only a derived mask.
        if self._here.step is None or tally.running is not None:
            self.begin(args, kwargs)
        if is_computed_again():
            return
        # From the shapes, not the step: a graph would be compiled anew for every number in it.
        rows, length = pass_shape(args, kwargs)
        if not torch.compiler.is_compiling():
            self._origins.check(kwargs, length)
            tally.running = rows * length
            step = self._here.step
            if step is not None and self.marked is None and step.tokens != rows * length:
                self._here.step = step.fitted(rows, length)
        tally.passed.add_(rows * length)

    def end(self, output: Any = None) -> None:
        """The pass has left the blocks, behind the last or on purpose before it."""
        self._here.step = None
        if not torch.compiler.is_compiling():
            self._here.tally.running = None
            self._origins.made(cache_in(output))

    def note_compiled_call(self, _module: nn.Module, _args: Any) -> None:
        """A compiled model was called, through its hooks or past them."""
        self.compiled_calls += 1

    def block_hook(self, layer: _LayerSteering, layout: StreamLayout) -> Any:
        """The forward hook that replaces a block's output by the steered stream."""

        def hook(_block: nn.Module, _args: Any, output: Any) -> Any:
            hidden = layout.stream_in(output)
            if is_computed_again():
                moved = layer(hidden, self._step_again(layer), None)
            elif self._here.step is None:
                raise NotAppliedError(
                    f"block {layer.number} ran outside a forward pass of its model"
                )
            else:
                moved = layer(hidden, self._here.step, self._here.tally.layers[layer.number])
            return layout.put_back(output, moved)

        return hook

    def _step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PassTokens:
        """The tokens of a pass, with what their masks ask for: sampled or not, first or not."""
        masks = {mask for layer in self.layers.values() for mask in layer.masks}
        if masks <= {"all"} or is_computed_again():
            return pass_tokens(args, kwargs)
        if torch.compiler.is_compiling():  # graphs have no callers; a lone token was sampled
            is_alone = pass_shape(args, kwargs)[1] == 1 and cache_given(kwargs) is not None
            return pass_tokens(args, kwargs, is_alone, None if is_alone else 0)
        inputs = pass_inputs(args, kwargs)
        device = torch.device("cpu") if inputs is None else inputs.device
        span = self._here.sequences.follow(args, kwargs)
        is_generated = span.is_generated(device) if masks & {"prompt", "generated"} else False
        start = span.first_position() if "not_first" in masks else None
        return pass_tokens(args, kwargs, is_generated, start)

    def _step_again(self, layer: _LayerSteering) -> PassTokens:
        """The tokens of a pass that backward computes again, which had no cache: all are prompt."""
        # A pass computed again says nothing of its padding, so not where its rows begin.
        if (self.has_marked_gradients and layer.is_partial) or "not_first" in layer.masks:
            raise UsageError(
                f"interventions at layer {layer.number} act on some tokens only, and backward "
                "computes the block again without knowing which: turn gradient checkpointing off, "
                "or use interventions on all tokens"
            )
        return PassTokens(0)

    def _take_back(self) -> None:
        """Uncount a pass of this thread that was broken off: no output came of it."""
        if torch.compiler.is_compiling() or self._here.tally.running is None:
            return
        tokens = self._here.tally.running
        self.end()
        self.compiled_calls = 0
        self._here.tally.take_back(tokens)


class _ThreadState(threading.local):
    """What one thread runs and counts: threads may generate at once, each in a pass of its own."""

    def __init__(
        self, stack: nn.Module, devices: dict[int, torch.device], tallies: list[_Tally]
    ) -> None:
        """Called anew in every thread that looks."""
        self.step: PassTokens | None = None
        self.sequences = SequenceFollower(stack)
        self.tally = _Tally(devices)
        tallies.append(self.tally)


class _Tally:
    """Tokens that one thread's passes held, and that each layer saw of them."""

    def __init__(self, devices: dict[int, torch.device]) -> None:
        first = next(iter(devices.values()), torch.device("cpu"))
        self.passed = torch.zeros((), dtype=torch.int64, device=first)
        self.running: int | None = None
        """Tokens of the pass that has reached the blocks and has not come to its end."""
        self.layers = {layer: _LayerTally(device) for layer, device in devices.items()}

    def take_back(self, tokens: int) -> None:
        """Uncount a pass of so many tokens, at those layers that it came to."""
        self.passed.sub_(tokens)
        for layer in self.layers.values():
            if int(layer.seen) > int(self.passed):
                layer.seen.sub_(tokens)

    def check_seen(self) -> None:
        """Raise NotAppliedError for a layer that saw fewer tokens than passed the model."""
        passed = int(self.passed)
        least = passed - (self.running or 0)
        for number, layer in self.layers.items():
            if not least <= int(layer.seen) <= passed:
                cause = (
                    "the block runs more than once in a pass (a looped model?)"
                    if int(layer.seen) > passed
                    else "something runs the model past its hooks"
                )
                raise NotAppliedError(
                    f"interventions at layer {number} saw {int(layer.seen)} of {passed} tokens; "
                    f"{cause}: do not trust these outputs"
                )


class _LayerTally:
    """Tokens that one layer saw, could move and moved, counted on that layer's device."""

    def __init__(self, device: torch.device) -> None:
        self.seen, self.slots, self.fired = torch.zeros(3, dtype=torch.int64, device=device)

    def add(
        self,
        hidden_BTD: Tensor,
        valid_BT: Bool[Tensor, "batch token"] | None,
        fired_BT: Bool[Tensor, "batch token"] | None,
    ) -> None:
        """Count a pass's tokens at the layer, without padding where it is known."""
        if self.seen.device != hidden_BTD.device:  # offloaded blocks run where they are not stored
            self.seen, self.slots, self.fired = (
                count.to(hidden_BTD.device) for count in (self.seen, self.slots, self.fired)
            )
        seen = hidden_BTD.shape[0] * hidden_BTD.shape[1]
        self.seen.add_(seen)
        self.slots.add_(seen if valid_BT is None else valid_BT.sum())
        if fired_BT is not None:
            self.fired.add_((fired_BT if valid_BT is None else fired_BT & valid_BT).sum())


class _LayerSteering:
    """The interventions of one layer, their directions on the device where its block runs."""

    def __init__(self, number: int, device: torch.device, group: Sequence[Intervention]) -> None:
        self.number, self.device = number, device
        self.masks = {each.tokens for each in group}
        self.is_partial = self.masks != {"all"}
        self._moves = [
            (each.tokens, each.numbers, each.is_bound, each.direction.to(device, torch.float32))
            for each in group
        ]

    def __call__(self, hidden_BTD: Tensor, step: PassTokens, tally: _LayerTally | None) -> Tensor:
        """The steered residual stream, in the dtype it came in; counted where there is a tally."""
        device, moves = hidden_BTD.device, self._moves
        if device != self.device:  # an offloaded block runs where it is not stored
            moves = [(*move[:3], move[3].to(device)) for move in moves]
        stream = hidden_BTD.float()
        fired_BT: Tensor | None = None
        for tokens, numbers, is_bound, direction in moves:
            acting = step.acting(tokens)
            if acting is False:
                continue
            amount_BT = shift(stream @ direction, *numbers)
            if acting is not True:
                amount_BT = amount_BT * acting.to(device)
            stream = stream + amount_BT[..., None] * direction
            if is_bound:
                fired = amount_BT != 0
                fired_BT = fired if fired_BT is None else fired_BT | fired
        if tally is not None:
            valid_BT = None if step.valid_BT is None else step.valid_BT.to(device)
            tally.add(hidden_BTD, valid_BT, fired_BT)
        return stream.to(hidden_BTD.dtype)


def _device_of(block: nn.Module) -> torch.device:
    """Where a block's parameters are; the CPU for offloaded ones, until it runs somewhere."""
    tensor = next(block.parameters(), None)
    stored = torch.device("cpu") if tensor is None else tensor.device
    return torch.device("cpu") if stored.type == "meta" else stored


def _forget_compiled() -> None:
    """Drop compiled graphs: they hold the hooks that were there when they were traced."""
    if "torch._dynamo" in sys.modules and torch._dynamo.utils.counters["frames"]["total"]:
        torch.compiler.reset()
