"""Records the residual stream while a model generates, inside its own forward passes.

Per step each block's output is copied once, in the model's dtype; the float32 sums are formed
for all layers at once when the step's token is known to be content. Memory is [layers, rows,
hidden], never times tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keel.engines.protocol import Probe, Recording
from keel.steering import Decoder, stream_of
from keel.types import Activations


@dataclass(frozen=True)
class RowRecord:
    """What was recorded of one row."""

    activations: Activations | None
    projections_TK: Tensor | None


class ResponseRecorder:
    """Means, norms and projections over the tokens that rows of a batch generate."""

    def __init__(self, recording: Recording, decoder: Decoder, rows: int, max_tokens: int) -> None:
        self.recording = recording
        self.decoder = decoder
        device = next(decoder.blocks[0].parameters()).device
        layers, hidden = len(decoder.blocks), decoder.hidden_size or 0
        self.is_on = False
        self.rows = list(range(rows))
        self.latest_LBD: Tensor | None = None
        if recording.means:
            self.sums_LBD = torch.zeros(layers, rows, hidden, device=device)
            self.norms_LB = torch.zeros(layers, rows, device=device)
        self.counts = [0] * rows
        self.projections_BTK = torch.zeros(rows, max_tokens, len(recording.probes), device=device)
        self.steps = 0

    @property
    def records(self) -> bool:
        """Whether anything is to be recorded at all."""
        return self.recording.means or bool(self.recording.probes)

    def attach(self, stack: ExitStack) -> None:
        """Hook the blocks; the stack unhooks them."""
        for layer, block in enumerate(self.decoder.blocks):
            probes = [(k, p) for k, p in enumerate(self.recording.probes) if p.layer == layer]
            if self.recording.means or probes:
                hook = self._hook(layer, probes)
                stack.callback(block.register_forward_hook(hook).remove)

    def commit(self, content: Sequence[bool]) -> None:
        """Count the step just run for those current rows whose token was content."""
        for row, is_content in zip(self.rows, content, strict=True):
            self.counts[row] += is_content
        self.steps += 1
        if self.recording.means and self.latest_LBD is not None:
            weight_B = torch.tensor(content, dtype=torch.float32, device=self.sums_LBD.device)
            latest_LBD = self.latest_LBD.float()
            self.sums_LBD.addcmul_(latest_LBD, weight_B[:, None])
            self.norms_LB.addcmul_(torch.linalg.vector_norm(latest_LBD, dim=-1), weight_B)

    def keep(self, places: Tensor, rows: list[int]) -> None:
        """Go on with some of the current rows only."""
        self.rows = rows
        if self.recording.means:
            self.sums_LBD = self.sums_LBD.index_select(1, places)
            self.norms_LB = self.norms_LB.index_select(1, places)
            self.latest_LBD = None

    def record_of(self, place: int) -> RowRecord:
        """What was recorded of the row now at this place of the batch."""
        row = self.rows[place]
        count = self.counts[row]
        activations = None
        if self.recording.means and count:
            means_LD = (self.sums_LBD[:, place] / count).cpu()
            activations = Activations(means_LD, (self.norms_LB[:, place] / count).cpu(), count)
        projections = self.projections_BTK[row, :count].cpu().clone()
        return RowRecord(activations, projections if self.recording.probes else None)

    def _hook(self, layer: int, probes: Sequence[tuple[int, Probe]]) -> Any:
        directions_DK = torch.stack([p.direction.float() for _, p in probes], 1) if probes else None
        columns = [k for k, _ in probes]

        def hook(_block: nn.Module, _args: Any, output: Any) -> None:
            if not self.is_on:
                return
            hidden_BD = stream_of(output, self.decoder.hidden_size)[:, -1]
            if self.recording.means:
                self._copy(layer, hidden_BD)
            if directions_DK is not None:
                self._project(hidden_BD.float() @ directions_DK.to(hidden_BD.device), columns)

        return hook

    def _copy(self, layer: int, hidden_BD: Tensor) -> None:
        if self.latest_LBD is None:
            shape = (len(self.decoder.blocks), *hidden_BD.shape)
            device = self.sums_LBD.device
            self.latest_LBD = torch.empty(shape, dtype=hidden_BD.dtype, device=device)
        self.latest_LBD[layer].copy_(hidden_BD)

    def _project(self, values_BK: Tensor, columns: list[int]) -> None:
        for place, column in enumerate(columns):
            values_B = values_BK[:, place].to(self.projections_BTK.device)
            self.projections_BTK[self.rows, self.steps, column] = values_B
