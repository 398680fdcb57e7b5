"""Reads given conversations: no sampling, no cache, no head, no block above the last one needed.

Batches are padded on the right: under causal attention padding then reaches no real token, so no
mask is needed and attention takes its fastest way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from keel.engines.chat_template import Transcript
from keel.engines.protocol import Recording
from keel.engines.results import Reading, TurnRecord
from keel.steering import Decoder, PassTokens, Steering, stream_of
from keel.types import Activations

_ROWS, _ROWS_CPU = 512, 32
"""Tokens whose logits are looked at together."""


@dataclass(frozen=True)
class Sheet:
    """A right-padded batch of transcripts."""

    transcripts: tuple[Transcript, ...]
    ids_BT: Int[Tensor, "row token"]
    content_BT: Bool[Tensor, "row token"]
    """Content tokens of assistant turns."""

    @classmethod
    def of(cls, transcripts: Sequence[Transcript], pad: int, device: torch.device) -> Sheet:
        """The transcripts as one batch."""
        width = max(len(t.token_ids) for t in transcripts)
        ids_BT = torch.full((len(transcripts), width), pad)
        content_BT = torch.zeros(len(transcripts), width, dtype=torch.bool)
        for row, transcript in enumerate(transcripts):
            length = len(transcript.token_ids)
            ids_BT[row, :length] = torch.tensor(transcript.token_ids)
            for turn in transcript.turns:
                content_BT[row, turn.start : turn.stop] = True
        return cls(tuple(transcripts), ids_BT.to(device), content_BT.to(device))

    @property
    def step(self) -> PassTokens:
        """The pass that runs this batch, told to steering: content tokens are what it counts."""
        return PassTokens(self.ids_BT.numel(), self.content_BT, self.content_BT)

    @property
    def spans(self) -> list[tuple[int, int, int, int]]:
        """(row, turn, start, stop) of every assistant turn."""
        return [
            (row, turn.turn, turn.start, turn.stop)
            for row, transcript in enumerate(self.transcripts)
            for turn in transcript.turns
        ]


def read_sheet(
    model: Any, decoder: Decoder, sheet: Sheet, recording: Recording, steering: Steering | None
) -> list[Reading]:
    """Everything asked for of one batch; `index` counts rows of the sheet."""
    reader = _Reader(decoder, sheet, recording)
    if steering is not None:
        steering.marked = sheet.step
    likelihoods: list[Tensor] = []
    with ExitStack() as stack, torch.inference_mode():
        reader.attach(stack)
        if recording.log_likelihood:
            likelihoods = _log_likelihoods(model, sheet)
        else:
            _run_blocks(decoder, sheet)
    if steering is not None:
        steering.end()
    return reader.readings(likelihoods)


def content_logits(model: Any, sheet: Sheet) -> Float[Tensor, "token vocabulary"]:
    """Logits that predict each content token, all rows' one after another.

    The head sees only the positions that matter: its input is picked out by a hook, so that
    whatever a model does after its head (soft caps, scales) still happens.
    """
    predicting_BT = torch.zeros_like(sheet.content_BT)
    predicting_BT[:, :-1] = sheet.content_BT[:, 1:]

    def pick(_head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][predicting_BT.to(args[0].device)][None], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        logits: Tensor = model(input_ids=sheet.ids_BT, use_cache=False).logits[0]
    finally:
        handle.remove()
    return logits


class _Enough(BaseException):
    """Leaves a forward pass after the last block needed; never seen outside this module."""


class _Reader:
    """Hooks that take from each block what was asked for, turn by turn."""

    def __init__(self, decoder: Decoder, sheet: Sheet, recording: Recording) -> None:
        self.decoder, self.sheet, self.recording = decoder, sheet, recording
        self.spans = sheet.spans
        self.places = ([row for row, *_ in self.spans], [turn for _, turn, *_ in self.spans])
        self.weights = self._turn_weights() if recording.means else None
        layers, hidden = len(decoder.blocks), decoder.hidden_size or 0
        kept = len(self.spans) if recording.means else 0
        self.means_NLD = torch.zeros(kept, layers, hidden)
        self.norms_NL = torch.zeros(kept, layers)
        self.projections_BTK = torch.zeros(*sheet.ids_BT.shape, len(recording.probes))

    def attach(self, stack: ExitStack) -> None:
        needed = range(len(self.decoder.blocks)) if self.recording.means else self._probed()
        for layer in needed:
            block = self.decoder.blocks[layer]
            stack.callback(block.register_forward_hook(self._hook(layer)).remove)
        if needed and not self.recording.log_likelihood:
            last = self.decoder.blocks[max(needed)]
            stack.callback(last.register_forward_hook(_enough).remove)

    def readings(self, likelihoods: Sequence[Tensor]) -> list[Reading]:
        by_row: list[list[TurnRecord]] = [[] for _ in self.sheet.transcripts]
        for number, (row, turn, start, stop) in enumerate(self.spans):
            activations = None
            if self.recording.means:
                activations = Activations(
                    self.means_NLD[number], self.norms_NL[number], stop - start
                )
            by_row[row].append(
                TurnRecord(
                    turn,
                    self.sheet.transcripts[row].token_ids[start:stop],
                    activations,
                    self.projections_BTK[row, start:stop] if self.recording.probes else None,
                    likelihoods[number] if likelihoods else None,
                )
            )
        return [Reading(row, tuple(turns)) for row, turns in enumerate(by_row)]

    def _probed(self) -> list[int]:
        return sorted({probe.layer for probe in self.recording.probes})

    def _turn_weights(self) -> Float[Tensor, "row turn token"]:
        """1/n at each of a turn's n content tokens."""
        rows, width = self.sheet.ids_BT.shape
        most = max((turn for _, turn, _, _ in self.spans), default=0) + 1
        weights_BNT = torch.zeros(rows, most, width)
        for row, turn, start, stop in self.spans:
            weights_BNT[row, turn, start:stop] = 1 / (stop - start)
        return weights_BNT.to(self.sheet.ids_BT.device)

    def _hook(self, layer: int) -> Callable[..., None]:
        columns = [k for k, p in enumerate(self.recording.probes) if p.layer == layer]

        def hook(_block: nn.Module, _args: Any, output: Any) -> None:
            hidden_BTD = stream_of(output, self.decoder.hidden_size).float()
            if self.recording.means:
                self._average(layer, hidden_BTD)
            for column in columns:
                direction = self.recording.probes[column].direction.to(hidden_BTD)
                self.projections_BTK[:, :, column] = (hidden_BTD @ direction).cpu()

        return hook

    def _average(self, layer: int, hidden_BTD: Tensor) -> None:
        assert self.weights is not None
        weights_BNT = self.weights.to(hidden_BTD.device)
        norms_BT = torch.linalg.vector_norm(hidden_BTD, dim=-1)
        rows, turns = self.places
        self.means_NLD[:, layer] = (weights_BNT @ hidden_BTD)[rows, turns].cpu()
        self.norms_NL[:, layer] = (weights_BNT @ norms_BT[..., None])[rows, turns, 0].cpu()


def _enough(_block: nn.Module, _args: Any, _output: Any) -> None:
    raise _Enough


def _run_blocks(decoder: Decoder, sheet: Sheet) -> None:
    try:
        decoder.stack(input_ids=sheet.ids_BT, use_cache=False)
    except _Enough:
        return


def in_rows(logits_NV: Tensor) -> tuple[Tensor, ...]:
    """The logits of so few tokens at a time that float32 copies are small; on a CPU they stay in
    its cache."""
    return torch.split(logits_NV, _ROWS_CPU if logits_NV.device.type == "cpu" else _ROWS)


def _log_likelihoods(model: Any, sheet: Sheet) -> list[Tensor]:
    """Per turn, the log-likelihood of each content token."""
    logits_NV = content_logits(model, sheet)
    actual_N = sheet.ids_BT[sheet.content_BT].to(logits_NV.device)
    chosen_N = logits_NV.gather(-1, actual_N[:, None])[:, 0].float()
    totals_N = torch.cat([torch.logsumexp(rows.float(), -1) for rows in in_rows(logits_NV)])
    chosen_N = (chosen_N - totals_N).cpu()
    lengths = [stop - start for _, _, start, stop in sheet.spans]
    return list(torch.split(chosen_N, lengths))
