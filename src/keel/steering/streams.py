"""Where the residual stream lies in what a decoder block returns: a single stream, or several.

Several streams: docs/decisions/0020. Knows shapes, no model by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keel.errors import ModelLayoutError


@dataclass(frozen=True)
class StreamLayout:
    """The residual stream in a block's output, and the way back.

    With hyper-connections it is the mean over the parallel streams, and what is added to it is
    added to each of them. With alternating updates (AltUp) it is the active stream.
    """

    hidden_size: int | None
    """Width of a stream; None where the model does not say."""
    streams: int | None = None
    """How many parallel streams the config names; None where it names none."""
    active: int | None = None
    """Index of the stream that blocks compute on, where streams are stacked in front (AltUp)."""
    token_axes: int = 2
    """Axes that count tokens: row and token; in vLLM a token alone."""

    def stream_in(self, output: Any) -> Tensor:
        """The residual stream [row, token, hidden] in what a block returned: of a tuple, the first.

        In float32 where it is a mean, else in the model's dtype.
        Raises ModelLayoutError for anything that is no residual stream.
        """
        if hasattr(output, "_fields"):  # several streams by name, as Reformer's reversible blocks
            raise self._refusal(f"{type(output).__name__}({', '.join(output._fields)})")
        hidden = output if isinstance(output, Tensor) else output[0]
        if not isinstance(hidden, Tensor):
            raise self._refusal(type(hidden).__name__)
        if self.active is not None:
            if hidden.ndim == self.token_axes + 2 and hidden.shape[-1] == self.hidden_size:
                return hidden[self.active]
            raise self._refusal(tuple(hidden.shape))
        if hidden.ndim == self.token_axes + 1 and hidden.shape[-1] == self.hidden_size:
            return hidden
        return self._parallel(hidden).float().mean(-2)

    def put_back(self, output: Any, stream: Tensor) -> Any:
        """What a block returned, with this residual stream in place of its own."""
        hidden: Tensor = output if isinstance(output, Tensor) else output[0]
        if self.active is not None:
            streams = list(hidden.unbind())
            streams[self.active] = stream
            stream = torch.stack(streams)
        elif hidden.shape != stream.shape:
            parallel = self._parallel(hidden).float()
            # Where nothing moved this is zero, and every stream stays what it was to the bit.
            move = stream - parallel.mean(-2)
            stream = (parallel + move[..., None, :]).to(hidden.dtype).reshape(hidden.shape)
        return stream if isinstance(output, Tensor) else (stream, *output[1:])

    def _parallel(self, hidden: Tensor) -> Tensor:
        """The parallel streams [row, token, stream, hidden], also where they come side by side."""
        shape = tuple(hidden.shape)
        width, streams = self.hidden_size or 0, self.streams
        if hidden.ndim == self.token_axes + 2 and shape[-2:] == (streams, width):
            return hidden
        if hidden.ndim == self.token_axes + 1 and streams and shape[-1] == streams * width:
            return hidden.view(*shape[:-1], streams, width)
        raise self._refusal(shape)

    def _refusal(self, returned: object) -> ModelLayoutError:
        return ModelLayoutError(
            f"a decoder block returned {returned}, expected one residual stream [row, token, "
            f"{self.hidden_size}], or as many as the config names (hc_mult, hc_count, "
            f"altup_active_idx): {self.streams}; if other blocks are meant, pass blocks="
        )
