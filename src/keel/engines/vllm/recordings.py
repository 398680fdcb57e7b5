"""What one worker has recorded: sums per layer, projections per token, what predicts a token.

Knows which tokens belong to which recording from the book's maps; knows no settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load, save
from torch import Tensor

from keel.engines.vllm.handover import SumsBuffer, packed_sums
from keel.engines.vllm.layers import SteeredLayer
from keel.engines.vllm.token_book import RecordedSpan, RequestRecord, StepMaps, TokenBook
from keel.errors import ModelMismatchError, NotAppliedError, UsageError

_SCORED_AT_ONCE = 64
"""Predictions whose logits are made at once."""


class Recordings:
    """Sums, projections and predictions of one worker's recorded requests, until collected.

    `layers` and `hidden` are the whole model's, `room` is for so many probes at a layer,
    `left_out_R` are tokens that the book counted and the step left out (`TokenMaps`), `logits`
    makes logits of the last stream; None where another pipeline stage has the head.
    """

    def __init__(
        self,
        held: Mapping[int, SteeredLayer],
        book: TokenBook,
        *,
        layers: int,
        hidden: int,
        room: int,
        left_out_R: Int[Tensor, " row"],
        logits: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.held, self.book, self.logits = held, book, logits
        self.layers, self.hidden, self.room = layers, hidden, room
        self.left_out_R = left_out_R
        self.probes: list[tuple[int, int]] = []
        """(layer, column there) of each probe as given; column −1 at another pipeline stage."""
        self.projections: dict[str, list[tuple[int, Tensor]]] = {}
        self.scores: dict[str, list[Tensor]] = {}
        self.buffer = SumsBuffer()

    def set_probes(self, file: bytes) -> None:
        """Take per-token projections on these directions from now on, and on no others.

        `file` is a safetensors file of `layers` [probe] and `directions` [probe, hidden]; empty
        takes none. Raises UsageError for more than there is room for, or a layer that is not there,
        ModelMismatchError for directions of another width.
        """
        given = load(file) if file else {"layers": torch.zeros(0), "directions": torch.zeros(0)}
        layers = [int(layer) for layer in given["layers"].tolist()]
        self._check_probes(layers, given["directions"])
        self.probes = []
        for held in self.held.values():
            if held.probes:
                held.probes_MD.zero_()
        for number, (layer, direction) in enumerate(zip(layers, given["directions"], strict=True)):
            column = layers[:number].count(layer) if layer in self.held else -1
            self.probes.append((layer, column))
            if column >= 0:
                self.held[layer].probes_MD[column] = direction.to(self.held[layer].probes_MD)

    def take(self, maps: StepMaps, output: Any) -> None:
        """Keep what the pass wrote and returned, before the next one overwrites it."""
        if self.probes:
            self._take_projections(maps)
        if isinstance(output, Tensor):
            for key, first, count in maps.predicting:
                self.scores.setdefault(key, []).append(output[first : first + count].clone())

    def collect(self, keys: Sequence[str], folder: str = "") -> dict[str, Any]:
        """What was recorded under these keys, which are forgotten, as `unpacked_sums` reads it.

        Tensors `KEY/TURN/sums` [layer, hidden], `/norms` [layer], `/projections` [token, probe],
        `/tokens`; the sums of layers that other pipeline stages hold are zero. The sums lie in a
        file of `folder` where there is such a folder on this machine.
        """
        numbers: dict[str, Tensor] = {}
        summed: list[tuple[str, int]] = []
        closed = self._close(keys)
        left_out = self._take_left_out(record.spans for record in closed.values())
        for key, record in closed.items():
            projections = self.projections.pop(key, [])
            for number, span in enumerate(record.spans):
                name, tokens = f"{key}/{number}", span.tokens - left_out.get(span.row, 0)
                numbers[f"{name}/tokens"] = torch.tensor([tokens])
                if record.sums:
                    summed.append((name, span.row))
                parts = [p for n, p in projections if n == number]
                if parts:  # what was left out came last
                    numbers[f"{name}/projections"] = torch.cat(parts)[:tokens].cpu()
        names, rows = [name for name, _ in summed], [row for _, row in summed]
        sums_LND, norms_LN, file = self._gather(rows, folder)
        self._clear(closed.values())
        return packed_sums(numbers, names, sums_LND, norms_LN, file)

    def discard(self, keys: Sequence[str]) -> None:
        """Forget what was recorded under these keys, where there is anything."""
        closed = self._close([key for key in keys if key in self.book.by_key])
        for key in closed:
            self.projections.pop(key, None)
        self._clear(closed.values())

    def likelihood(self, key: str) -> bytes:
        """Log-likelihood of each recorded token, turn after turn; empty where the head is not.

        Raises NotAppliedError where some token's prediction was not seen.
        """
        record = self.book.recorded(key)
        actual = [
            record.prompt_ids[n] for s in record.spans for n in range(max(s.start, 1), s.stop)
        ]
        parts = [torch.zeros(0)]
        if self.logits is not None:
            for hidden, ids in _chunks(self._predictions(key), torch.tensor(actual)):
                log_p = torch.log_softmax(self.logits(hidden).float(), -1)
                parts.append(log_p.gather(-1, ids.to(log_p.device)[:, None])[:, 0].cpu())
        return packed({"log_likelihood": torch.cat(parts)})

    def divergence(self, plain: str, steered: str) -> bytes:
        """KL(plain ‖ steered) of what the two predict for each recorded token, in nats.

        Empty and raises as `likelihood`.
        """
        parts = [torch.zeros(0)]
        if self.logits is not None:
            for left, right in _chunks(self._predictions(plain), self._predictions(steered)):
                log_p = torch.log_softmax(self.logits(left).float(), -1)
                log_q = torch.log_softmax(self.logits(right).float(), -1)
                parts.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0).cpu())
        return packed({"kl": torch.cat(parts)})

    def _check_probes(self, layers: Sequence[int], directions: Tensor) -> None:
        for layer in sorted(set(layers)):
            if not 0 <= layer < self.layers:
                last = self.layers - 1
                raise UsageError(f"a probe at layer {layer}, but this model's are 0 to {last}")
            if layers.count(layer) > self.room:
                raise UsageError(
                    f"{layers.count(layer)} probes at layer {layer}, but this engine was started "
                    f"for {self.room}; start it with probes={layers.count(layer)}"
                )
        if layers and directions.shape[-1] != self.hidden:
            raise ModelMismatchError(
                f"probes of {directions.shape[-1]} numbers, but this model's residual stream has "
                f"{self.hidden}; use that of this model"
            )

    def _take_projections(self, maps: StepMaps) -> None:
        elsewhere = torch.zeros_like(next(iter(self.held.values())).projections_TM[:, 0])
        tables = [
            self.held[layer].projections_TM[:, column] if column >= 0 else elsewhere
            for layer, column in self.probes
        ]
        if not maps.taken:
            return
        # On the device until it is collected: to wait for a step would hold up the next one.
        projections_TP = torch.stack([table[: maps.taken[-1][-1]] for table in tables], -1)
        for key, span, begin, end in maps.taken:
            self.projections.setdefault(key, []).append((span, projections_TP[begin:end]))

    def _take_left_out(self, spans: Iterable[Sequence[RecordedSpan]]) -> dict[int, int]:
        """Tokens of each row that were left out."""
        rows = [span.row for of_key in spans for span in of_key if span.row >= 0]
        return dict(zip(rows, self.left_out_R[rows].tolist(), strict=True)) if rows else {}

    def _close(self, keys: Sequence[str]) -> dict[str, RequestRecord]:
        """The records under these keys, which are forgotten with what predicts their tokens."""
        for key in keys:
            self.scores.pop(key, None)
        return {key: self.book.close(key) for key in keys}

    def _clear(self, records: Iterable[RequestRecord]) -> None:
        """Set the rows of closed records to zero for the next recording."""
        rows = [span.row for record in records for span in record.spans if span.row >= 0]
        freed = torch.tensor(rows, device=self.left_out_R.device)
        if len(freed):
            self.left_out_R[freed] = 0
            for held in self.held.values():
                held.sums_RD[freed] = 0
                held.norms_R[freed] = 0

    def _gather(self, rows: Sequence[int], folder: str) -> tuple[Tensor, Tensor, str]:
        """Each row's sums at every layer up to the last that is here, and their norms.

        Also the file of `folder` that holds the sums; empty where none does.
        """
        if not rows:
            return torch.zeros(0, 0, self.hidden), torch.zeros(0, 0), ""
        device, depth = self.left_out_R.device, max(self.held) + 1
        wanted = torch.tensor(rows, device=device)
        shape = (depth, len(rows), self.hidden)
        room_LND = self.buffer.empty(folder, shape)
        sums_LND = room_LND
        if sums_LND is None or device.type != "cpu":
            sums_LND = torch.empty(shape, dtype=torch.float32, device=device)
        norms_LN = torch.empty(shape[:2], dtype=torch.float32, device=device)
        for layer in range(depth):
            held = self.held.get(layer)
            if held is None:  # another pipeline stage has it
                sums_LND[layer], norms_LN[layer] = 0, 0
                continue
            torch.index_select(held.sums_RD, 0, wanted, out=sums_LND[layer])
            torch.index_select(held.norms_R, 0, wanted, out=norms_LN[layer])
        if room_LND is None:
            return sums_LND, norms_LN, ""
        if sums_LND is not room_LND:
            room_LND.copy_(sums_LND)
        return room_LND, norms_LN, self.buffer.name

    def _predictions(self, key: str) -> Float[Tensor, "token hidden"]:
        kept = self.scores.get(key, [])
        predictions_ND = torch.cat(kept) if kept else torch.zeros(0, self.hidden)
        expected = sum(span.predictions for span in self.book.recorded(key).spans)
        if len(predictions_ND) != expected:
            raise NotAppliedError(
                f"{len(predictions_ND)} of {expected} predictions were kept under {key!r}; a "
                "cache or a model runner that Keel cannot follow took the rest: do not trust this "
                "reading"
            )
        return predictions_ND


def _chunks(left: Tensor, right: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    if len(left) != len(right):
        raise NotAppliedError(f"{len(left)} predictions against {len(right)}; read again")
    parts = torch.split(left, _SCORED_AT_ONCE), torch.split(right, _SCORED_AT_ONCE)
    return zip(*parts, strict=True) if len(left) else ()


def packed(tensors: dict[str, Tensor]) -> bytes:
    """The tensors as one safetensors file in memory."""
    file: bytes = save(tensors)
    return file
