"""Records the residual stream while a model generates, inside its own forward passes.

The float32 sums are formed for all layers at once when the step's token is known to be content.
Memory is [layers, rows, hidden], never times tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from keel.engines.protocol import Recording
from keel.engines.transformers.transfer import Transfer, sent
from keel.steering import Decoder, Probe, StreamSums, check_ran
from keel.types import Activations


@dataclass(frozen=True)
class RowRecord:
    """What was recorded of one row."""

    activations: Activations | None
    projections_TK: Tensor | None
    prompt_K: Tensor | None = None


class ResponseRecorder:
    """Means, norms and projections over the tokens that rows of a batch generate."""

    def __init__(self, recording: Recording, decoder: Decoder, rows: int, max_tokens: int) -> None:
        self.recording = recording
        self.decoder = decoder
        device = next(decoder.blocks[0].parameters()).device
        layers, hidden = len(decoder.blocks), decoder.hidden_size or 0
        self.is_on = False
        self.is_at_prompt = False
        """Whether the pass that ends with each row's last prompt token runs."""
        probes = len(recording.probes)
        self.sums = StreamSums(layers if recording.means else 0, rows, hidden, device)
        self.projections_BTK = torch.zeros(rows, max_tokens, probes, device=device)
        self.latest_BK = torch.zeros(rows, probes, device=device)
        self.prompt_BK = torch.zeros(rows, probes, device=device)
        self.rows_B = torch.arange(rows, device=device)
        """Of each row in the batch now: its number in the batch as it began."""
        self.step_1 = torch.zeros(1, dtype=torch.long, device=device)
        """Steps that were counted, as the device knows it."""
        self.layers: set[int] = set()
        """Layers to record."""
        self.silent: set[int] = set()
        """Those that have not run yet in the pass that runs."""

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
                self.layers.add(layer)

    @contextmanager
    def listening(self, *, is_prompt: bool) -> Iterator[None]:
        """Record the pass inside, the one over the prompts or one over each row's latest token.

        Raises ModelLayoutError where a layer to record did not run in it: what stands there is
        still an earlier token's.
        """
        self.is_at_prompt, self.is_on = is_prompt, not is_prompt
        self.silent = set() if is_prompt and not self.recording.prompt else set(self.layers)
        yield
        self.is_at_prompt = self.is_on = False
        check_ran(self.silent)

    def commit(self, is_content_B: Bool[Tensor, " row"]) -> None:
        """Count the step just run in those current rows whose token was content."""
        self.projections_BTK[self.rows_B, self.step_1] = self.latest_BK
        self.step_1 += 1
        self.sums.add_latest(is_content_B.to(self.rows_B.device, torch.float32))

    def keep(self, indices: Int[Tensor, " index"]) -> None:
        """Continue with some of the current rows only."""
        indices = indices.to(self.rows_B.device)
        self.rows_B, self.latest_BK = self.rows_B[indices], self.latest_BK[indices]
        self.sums.keep(indices)

    def hand_over(self, indices: Sequence[int]) -> Transfer:
        """Begin to bring what was recorded of the rows now at these indices to the host."""
        if not self.records or not indices:
            return Transfer.begin()
        indices_R = sent(indices, self.rows_B.device)
        rows_R = self.rows_B[indices_R]
        sums_LRD = self.sums.sums_LBD.index_select(1, indices_R)
        norms_LR = self.sums.norms_LB.index_select(1, indices_R)
        return Transfer.begin(
            sums_LRD, norms_LR, self.projections_BTK[rows_R], self.prompt_BK[rows_R]
        )

    def record_of(self, transfer: Transfer, number: int, count: int) -> RowRecord:
        """The record of the first `count` tokens of one of the rows that were handed over."""
        if not self.records:
            return RowRecord(None, None)
        sums_LRD, norms_LR, projections_RTK, prompt_RK = transfer.finish()
        activations = None
        if self.recording.means and count:
            activations = Activations(
                sums_LRD[:, number] / count, norms_LR[:, number] / count, count
            )
        projections_TK = projections_RTK[number, :count].clone() if self.recording.probes else None
        prompt_K = prompt_RK[number].clone() if self.recording.prompt else None
        return RowRecord(activations, projections_TK, prompt_K)

    def _hook(self, layer: int, probes: Sequence[tuple[int, Probe]]) -> Any:
        directions_DK = None
        if probes:  # a copy in a step would wait for the device, and no graph can hold one
            directions_DK = torch.stack([p.direction.float() for _, p in probes], 1)
            directions_DK = directions_DK.to(self.latest_BK.device)
        columns = [k for k, _ in probes]

        def hook(_block: nn.Module, _args: Any, output: Any) -> None:
            nonlocal directions_DK
            is_prompt = self.is_at_prompt and self.recording.prompt
            if not (self.is_on or is_prompt):
                return
            self.silent.discard(layer)
            hidden_BD = self.decoder.layout.stream_in(output)[:, -1]
            if self.recording.means and not is_prompt:
                self.sums.put(layer, hidden_BD)
            into_BK = self.prompt_BK if is_prompt else self.latest_BK
            if directions_DK is not None:
                directions_DK = directions_DK.to(hidden_BD.device)  # a later GPU's, once
                values_BK = hidden_BD.float() @ directions_DK
                for index, column in enumerate(columns):
                    into_BK[:, column].copy_(values_BK[:, index])

        return hook
