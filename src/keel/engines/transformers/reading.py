"""Reads given conversations: no sampling, no cache, and no block above the last one needed.

Batches are padded on the right: under causal attention padding then reaches no real token, so no
mask is needed and attention takes its fastest way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from keel.engines.protocol import Recording
from keel.engines.rendered_tokens import Transcript
from keel.engines.results import Divergence, Reading, TurnRecord
from keel.steering import (
    Decoder,
    Intervention,
    PassTokens,
    Steering,
    check_ran,
    check_reached,
)
from keel.types import Activations

_ROWS, _ROWS_CPU = 512, 32
"""Tokens whose logits are converted to float32 together."""


@dataclass(frozen=True)
class PaddedBatch:
    """A right-padded batch of transcripts."""

    transcripts: tuple[Transcript, ...]
    ids_BT: Int[Tensor, "row token"]
    content_BT: Bool[Tensor, "row token"]
    """Content tokens of assistant turns."""

    @classmethod
    def of(cls, transcripts: Sequence[Transcript], pad: int, device: torch.device) -> PaddedBatch:
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
        """The tokens of this batch's pass, for steering, which counts content tokens."""
        is_first_BT = torch.zeros_like(self.content_BT)
        is_first_BT[:, 0] = True  # padding lies on the right
        return PassTokens(self.ids_BT.numel(), self.content_BT, self.content_BT, is_first_BT)

    @property
    def spans(self) -> list[tuple[int, int, int, int]]:
        """(row, turn, start, stop) of every assistant turn."""
        return [
            (row, turn.turn, turn.start, turn.stop)
            for row, transcript in enumerate(self.transcripts)
            for turn in transcript.turns
        ]


def read_batch(
    model: Any,
    decoder: Decoder,
    batch: PaddedBatch,
    recording: Recording,
    steering: Steering | None,
) -> list[Reading]:
    """Record what `recording` names, of one batch; a reading's `index` is its row."""
    reader = _Reader(decoder, batch, recording)
    if steering is not None:
        steering.marked = batch.step
    likelihoods: list[Tensor] = []
    with ExitStack() as stack, torch.inference_mode():
        reader.attach(stack, () if steering is None else steering.layers)
        if recording.log_likelihood:
            likelihoods = _log_likelihoods(model, batch)
        else:
            with suppress(_PassDone):
                model(input_ids=batch.ids_BT, use_cache=False)
    if steering is not None:
        steering.end()
    return reader.readings(likelihoods)


def content_logits(model: Any, batch: PaddedBatch) -> Float[Tensor, "token vocabulary"]:
    """Logits that predict each content token, all rows' one after another.

    The head sees only the positions that matter: its input is picked out by a hook, so that
    whatever a model does after its head (soft caps, scales) still happens. Where the model does not
    name its head, or goes past it, logits are picked out of all.
    """
    predicting_BT = torch.zeros_like(batch.content_BT)
    predicting_BT[:, :-1] = batch.content_BT[:, 1:]

    def picked(values_BTX: Tensor) -> Tensor:
        # A trained prompt stands before the batch's own tokens.
        return values_BTX[:, -predicting_BT.shape[1] :][predicting_BT.to(values_BTX.device)]

    def pick(_head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (picked(args[0])[None], *args[1:])

    head = model.get_output_embeddings()
    with ExitStack() as stack:
        if head is not None:
            stack.callback(head.register_forward_pre_hook(pick).remove)
        logits_BTV: Tensor = model(input_ids=batch.ids_BT, use_cache=False).logits
    is_picked = logits_BTV.shape[:2] == (1, int(predicting_BT.sum()))
    return logits_BTV[0] if is_picked else picked(logits_BTV)


def divergences(
    model: Any,
    steering: Callable[[Sequence[Intervention]], Any],
    batch: PaddedBatch,
    settings: Sequence[Sequence[Intervention]],
) -> Iterator[Divergence]:
    """For each row of the batch and each setting, the mean KL(unsteered ‖ steered) per token."""
    if not bool(batch.content_BT.any()):
        return
    with torch.inference_mode():
        plain_NV = content_logits(model, batch)
    for number, interventions in enumerate(settings):
        with steering(interventions) as handle, torch.inference_mode():
            if handle is not None:
                handle.marked = batch.step
            steered_NV = content_logits(model, batch)
            if handle is not None:
                check_reached(handle.firing(), [each.layer for each in interventions])
        kl_N = kl_per_token(plain_NV, steered_NV)
        counts = batch.content_BT.sum(1).tolist()
        for row, kl_of_row_N in enumerate(torch.split(kl_N, counts)):
            if len(kl_of_row_N):
                yield Divergence(row, number, float(kl_of_row_N.mean()), len(kl_of_row_N))


def kl_per_token(
    plain_NV: Float[Tensor, "token vocabulary"], steered_NV: Float[Tensor, "token vocabulary"]
) -> Float[Tensor, " token"]:
    """KL(plain ‖ steered) of the two distributions at each token, in nats, in float32."""
    parts = []
    for plain, steered in zip(in_rows(plain_NV), in_rows(steered_NV), strict=True):
        log_p = torch.log_softmax(plain, -1, dtype=torch.float32)
        log_q = torch.log_softmax(steered, -1, dtype=torch.float32)
        difference = log_q.neg_().add_(log_p)
        parts.append(difference.mul_(log_p.exp_()).sum(-1).clamp_min(0).cpu())
    return torch.cat(parts)


class _PassDone(BaseException):
    """Leaves a forward pass after the last block needed; never leaves this module."""


class _Reader:
    """Hooks that record means and projections of each block's output, turn by turn."""

    def __init__(self, decoder: Decoder, batch: PaddedBatch, recording: Recording) -> None:
        self.decoder, self.batch, self.recording = decoder, batch, recording
        self.spans = batch.spans
        self.row_and_turn = ([row for row, *_ in self.spans], [turn for _, turn, *_ in self.spans])
        self.weights = self._turn_weights() if recording.means else None
        layers, hidden = len(decoder.blocks), decoder.hidden_size or 0
        kept = len(self.spans) if recording.means else 0
        self.means_NLD = torch.zeros(kept, layers, hidden)
        self.norms_NL = torch.zeros(kept, layers)
        self.silent: set[int] = set()
        """Layers to record that have not run yet."""
        self.projections_BTK = torch.zeros(*batch.ids_BT.shape, len(recording.probes))

    def attach(self, stack: ExitStack, steered_layers: Iterable[int]) -> None:
        """Record, and leave each pass behind the last layer that is recorded or steered."""
        needed = (
            range(len(self.decoder.blocks))
            if self.recording.means
            else sorted({probe.layer for probe in self.recording.probes})
        )
        for layer in needed:
            block = self.decoder.blocks[layer]
            stack.callback(block.register_forward_hook(self._hook(layer)).remove)
            self.silent.add(layer)
        if needed and not self.recording.log_likelihood:
            last = self.decoder.blocks[max([*needed, *steered_layers])]
            stack.callback(last.register_forward_hook(_end_pass).remove)

    def readings(self, likelihoods: Sequence[Tensor]) -> list[Reading]:
        check_ran(self.silent)
        by_row: list[list[TurnRecord]] = [[] for _ in self.batch.transcripts]
        for number, (row, turn, start, stop) in enumerate(self.spans):
            activations = None
            if self.recording.means:
                activations = Activations(
                    self.means_NLD[number], self.norms_NL[number], stop - start
                )
            by_row[row].append(
                TurnRecord(
                    turn,
                    self.batch.transcripts[row].token_ids[start:stop],
                    activations,
                    self.projections_BTK[row, start:stop] if self.recording.probes else None,
                    likelihoods[number] if likelihoods else None,
                    self.projections_BTK[row, start - 1] if self.recording.prompt else None,
                )
            )
        return [Reading(row, tuple(turns)) for row, turns in enumerate(by_row)]

    def _turn_weights(self) -> Float[Tensor, "row turn token"]:
        """1/n at each of a turn's n content tokens."""
        rows, width = self.batch.ids_BT.shape
        most = max((turn for _, turn, _, _ in self.spans), default=0) + 1
        weights_BNT = torch.zeros(rows, most, width)
        for row, turn, start, stop in self.spans:
            weights_BNT[row, turn, start:stop] = 1 / (stop - start)
        return weights_BNT.to(self.batch.ids_BT.device)

    def _hook(self, layer: int) -> Callable[..., None]:
        columns = [k for k, p in enumerate(self.recording.probes) if p.layer == layer]

        def hook(_block: nn.Module, _args: Any, output: Any) -> None:
            self.silent.discard(layer)
            hidden_BTD = self.decoder.layout.stream_in(output).float()
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
        rows, turns = self.row_and_turn
        self.means_NLD[:, layer] = (weights_BNT @ hidden_BTD)[rows, turns].cpu()
        self.norms_NL[:, layer] = (weights_BNT @ norms_BT[..., None])[rows, turns, 0].cpu()


def _end_pass(_block: nn.Module, _args: Any, _output: Any) -> None:
    """Hook that leaves the forward pass behind the last block that is needed."""
    raise _PassDone


def in_rows(logits_NV: Tensor) -> tuple[Tensor, ...]:
    """The logits of a few tokens at a time.

    So few that float32 copies are small; on a CPU they stay in its cache.
    """
    return torch.split(logits_NV, _ROWS_CPU if logits_NV.device.type == "cpu" else _ROWS)


def _log_likelihoods(model: Any, batch: PaddedBatch) -> list[Tensor]:
    """Per turn, the log-likelihood of each content token."""
    logits_NV = content_logits(model, batch)
    actual_N = batch.ids_BT[batch.content_BT].to(logits_NV.device)
    chosen_N = logits_NV.gather(-1, actual_N[:, None])[:, 0].float()
    totals_N = torch.cat([torch.logsumexp(rows.float(), -1) for rows in in_rows(logits_NV)])
    chosen_N = (chosen_N - totals_N).cpu()
    lengths = [stop - start for _, _, start, stop in batch.spans]
    return list(torch.split(chosen_N, lengths))
