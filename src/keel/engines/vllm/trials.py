"""Tries out, in one worker, what the model makes of its layers' outputs: a part of the self-test.

Runs on the self-test's own requests, outside compiled graphs. Knows no settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from keel.engines.vllm.layers import SteeredLayer, TokenMaps, Trial, stream_of
from keel.engines.vllm.streams import StreamSource
from keel.errors import NotAppliedError
from keel.geometry import unit

_SIZE = 0.5
"""How far a trial moves an output, in lengths of its token's stream."""
_MARKS = 16
"""Random vectors on which streams are compared between processes."""


@dataclass
class StreamLook:
    """What an unsteered pass showed of the residual streams in one worker."""

    norms: dict[int, float] = field(default_factory=dict)
    """Length of the longest token's stream after each layer."""
    marks: dict[int, list[float]] = field(default_factory=dict)
    """Projections of each layer's summed stream on a few random vectors: the same in all processes
    that hold the layer's whole stream."""
    pairs: set[str] = field(default_factory=set)
    """Classes of layers that returned two outputs."""
    reader_gap: float | None = None
    """Distance of what the module after the last layer is given from that layer's stream, in
    lengths of it; None where no such module is here."""
    is_finite: bool = True
    """Whether the model's own output is free of NaN and Inf."""


class StreamTrials:
    """Passes that change layers' outputs in ways that must, or must not, show in the model's.

    `layers` and `sources` are all of this process, `wrapped` those that Keel steers or records;
    `has_head` says whether the model's last layer is among them.
    """

    def __init__(
        self,
        model: nn.Module,
        shared: TokenMaps,
        layers: Mapping[int, nn.Module],
        sources: Mapping[int, StreamSource],
        *,
        has_head: bool,
    ) -> None:
        self.model, self.shared, self.layers, self.sources = model, shared, layers, sources
        self.has_head = has_head
        self.seen = StreamLook()
        self.plain_TO = torch.zeros(0)
        """What the model gave when nothing was changed."""
        self.moving: set[int] = set()
        self.outputs: list[Tensor] = []
        self.hooks: list[Any] = []
        self.calls = 0

    def look(self) -> None:
        """Look at every layer's stream in the coming passes, and change nothing."""
        self.seen = StreamLook()
        self._begin(self._take)
        if self.has_head:
            self._watch_reader()

    def push(self, kind: str) -> None:
        """Move the first output of all layers of a class: the model's output must follow."""
        self.moving = self._layers_of(kind)
        self._begin(self._push)

    def gauge(self, kind: str) -> None:
        """Move both outputs of all layers of a class, so that the streams stay what they are.

        Of a sum, what is added to the first is taken from the second; beside a stream that is the
        first output alone, the second can be anything. The model's output must not change.
        """
        self.moving = self._layers_of(kind)
        self._begin(self._gauge)

    def looked(self) -> StreamLook:
        """What was seen since `look`. Raises NotAppliedError where no layer was."""
        self.plain_TO = self._end()
        self.seen.is_finite = bool(self.plain_TO.isfinite().all())
        return self.seen

    def moved(self) -> float:
        """How far the model's output has moved from what it was, in lengths of that.

        Raises NotAppliedError where no layer was passed.
        """
        moved_TO = self._end()
        rows = min(len(moved_TO), len(self.plain_TO))
        plain_TO = self.plain_TO[:rows]
        return float((moved_TO[:rows] - plain_TO).norm() / plain_TO.norm())

    def _layers_of(self, kind: str) -> set[int]:
        # What one pipeline stage returns as a pair, the next adds: its last layer stays as it is.
        last = -1 if self.has_head else max(self.layers)
        return {n for n, source in self.sources.items() if source.kind == kind and n != last}

    def _begin(self, trial: Trial) -> None:
        self.outputs, self.calls = [], 0
        self.shared.trial = trial
        forward = self.model.forward

        def keeping(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            self._keep_output(output)
            return output

        # Not a hook: vLLM runs a class that it compiles as a whole (ERNIE 4.5) past them.
        self.model.forward = keeping

    def _end(self) -> Float[Tensor, "token output"]:
        self.shared.trial = None
        vars(self.model).pop("forward", None)
        for hook in self.hooks:
            hook.remove()
        self.hooks = []
        if not self.outputs or not self.calls:
            raise NotAppliedError(
                "self-test: the layers ran in a captured graph, where Keel cannot try out what the "
                "model reads of them; start the engine with eager=true (vLLM's enforce_eager)"
            )
        return torch.cat(self.outputs)

    def _keep_output(self, output: Any) -> None:
        """Keep what the model returns: of a pipeline stage several tensors, else the first."""
        if hasattr(output, "tensors"):
            parts = list(output.tensors.values())
        else:
            parts = [output if isinstance(output, Tensor) else output[0]]
        kept = [_rows(part)[: self.shared.filled].float() for part in parts]
        self.outputs.append(torch.cat(kept, dim=-1).clone())

    def _take(
        self, layer: SteeredLayer, hidden: Tensor, second: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Take lengths and marks of a layer's stream."""
        self.calls += 1
        number, seen = layer.layer, self.seen
        if second is not None:
            seen.pairs.add(self.sources[number].kind)
        stream = stream_of(hidden, second if layer.is_sum else None)[: self.shared.filled]
        longest = float(stream.norm(dim=-1).max())
        seen.norms[number] = max(longest, seen.norms.get(number, 0.0))
        seen.marks[number] = (_random(number, _MARKS, stream) @ stream.sum(0)).tolist()
        return hidden, second

    def _push(
        self, layer: SteeredLayer, hidden: Tensor, second: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        self.calls += 1
        if layer.layer not in self.moving:
            return hidden, second
        return hidden + _step(layer, hidden, second), second

    def _gauge(
        self, layer: SteeredLayer, hidden: Tensor, second: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        self.calls += 1
        if layer.layer not in self.moving or second is None:
            return hidden, second
        step = _step(layer, hidden, second)
        return (hidden + step, second - step) if layer.is_sum else (hidden, second + step)

    def _watch_reader(self) -> None:
        """Compare the last layer's stream with what the next module outside the layers is given."""
        number = max(self.layers)
        last, is_sum, seen = self.layers[number], self.sources[number].is_sum, self.seen
        streams: list[Tensor] = []

        def keep(_layer: nn.Module, _given: Any, output: Any) -> None:
            first, second = output[:2] if isinstance(output, tuple) else (output, None)
            streams[:] = [stream_of(_rows(first), second if is_sum else None).clone()]

        def compare(_module: nn.Module, given: Any, named: Any) -> None:
            if not streams or seen.reader_gap is not None:
                return
            stream = streams[0]
            tensors = [part for part in (*given, *named.values()) if isinstance(part, Tensor)]
            parts = [_rows(part).float() for part in tensors if part.shape[-1] == stream.shape[-1]]
            parts = [part for part in parts if part.shape == stream.shape]
            if parts:
                read = torch.stack(parts[: 2 if is_sum else 1]).sum(0)
                seen.reader_gap = float((read - stream).norm() / stream.norm())

        inside = {part for layer in self.layers.values() for part in layer.modules()}
        self.hooks.append(last.register_forward_hook(keep))
        for module in self.model.modules():
            if module not in inside and all(part is not last for part in module.modules()):
                self.hooks.append(module.register_forward_pre_hook(compare, with_kwargs=True))


def _rows(tensor: Tensor) -> Tensor:
    """A token a row; transformers' layers have a batch axis in front."""
    return tensor.reshape(-1, tensor.shape[-1])


def _step(layer: SteeredLayer, hidden: Tensor, second: Tensor | None) -> Tensor:
    """What a trial adds to each token at this layer: the same in all processes."""
    stream = stream_of(hidden, second if layer.is_sum else None)
    direction = unit(_random(layer.layer, 1, stream)[0])
    step: Tensor = _SIZE * stream.norm(dim=-1, keepdim=True) * direction
    return step.to(hidden.dtype)


def _random(seed: int, count: int, stream: Tensor) -> Float[Tensor, "vector hidden"]:
    """Random vectors of a stream's width, the same in all processes."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(count, stream.shape[-1], generator=draws).to(stream.device)
