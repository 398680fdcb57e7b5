"""Steering and recording at one decoder layer, as traced into vLLM's graph.

Plain tensor code on buffers at fixed addresses, so that torch.compile fuses it and CUDA graphs
capture it. Only the buffers' contents change afterwards; row 0 of every table does nothing.
Compiled for a CPU it can add one token to a recording, and no more: see `WorkerState.wants_eager`.
The residual stream after a layer is hidden + residual, or hidden alone (`streams`); what is added
to hidden is added to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from keel.engines.vllm.deployment import Deployment
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.token_book import TRASH, StepMaps, idle_maps, rows_of
from keel.errors import ModelLayoutError, UsageError
from keel.geometry import shift
from keel.types import ShiftNumbers, TokenMask

_PHASES: tuple[TokenMask, ...] = ("prompt", "generated")
"""Token kinds, in the order of a setting's two rows of numbers."""


Trial = Callable[["SteeredLayer", Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""Takes a layer and its two outputs, and gives those that are to be returned instead."""


class TokenMaps(nn.Module):
    """Per-token maps that all layers of one model read; filled before each forward pass."""

    maps_5T: Int[Tensor, "map slot"]
    """The five below, one after the other: filled in one transfer."""
    idle_5T: Int[Tensor, "map slot"]
    phase_T: Int[Tensor, " slot"]
    """2·setting + (1 if the token was generated); 0 does nothing."""
    sums_row_T: Int[Tensor, " slot"]
    """Recording that the token counts towards; from `recordings` on, none."""
    tally_row_T: Int[Tensor, " slot"]
    """Setting in whose firing the token is counted; 0 for none."""
    ends_T: Int[Tensor, " slot"]
    """Set of tokens of which it must be none to be counted; 0 for the empty one."""
    early_T: Int[Tensor, " slot"]
    """1 for a token at the beginning of a watched answer."""
    left_out_R: Int[Tensor, " row"]
    """Tokens of each recording that were not counted after all."""
    left_out_S: Int[Tensor, " setting"]
    """The same for each setting's firing."""
    watched_TN: Float[Tensor, "slot number"]
    """What each token adds to the sums of a watched answer: 1, its projection, the square of it,
    the projection once more if it is early, the number of layers that moved it."""

    def __init__(self, deployment: Deployment, max_tokens: int, device: torch.device) -> None:
        super().__init__()
        self.deployment = deployment
        self.max_tokens = max_tokens
        self.filled = 0
        self.ran_eagerly = False
        """Whether a layer ran outside a compiled graph since this was last set to False."""
        self.trial: Trial | None = None
        """Looks at, or changes, all layers' outputs in the self-test's passes outside graphs."""
        idle_5T = torch.from_numpy(idle_maps(max_tokens, rows_of(deployment))).to(device)
        self.register_buffer("idle_5T", idle_5T, persistent=False)
        self.register_buffer("maps_5T", idle_5T.clone(), persistent=False)
        names = ("phase_T", "sums_row_T", "tally_row_T", "ends_T", "early_T")
        for name, map_T in zip(names, self.maps_5T, strict=True):
            self.register_buffer(name, map_T, persistent=False)
        for name, rows in (
            ("left_out_R", rows_of(deployment) + TRASH),
            ("left_out_S", deployment.settings + 1),
        ):
            none = torch.zeros(rows, dtype=torch.int64, device=device)
            self.register_buffer(name, none, persistent=False)
        if deployment.watched_layer is not None:
            watched_TN = torch.zeros(max_tokens, 5, dtype=torch.float32, device=device)
            watched_TN[:, 0] = 1
            self.register_buffer("watched_TN", watched_TN, persistent=False)

    def fill(self, maps: StepMaps) -> None:
        """Copy in the maps of the coming pass; those of the pass before are forgotten."""
        total = maps.maps_5T.shape[1]
        if total < self.filled:
            self.clear()
        numbers_5T = torch.from_numpy(maps.maps_5T)
        if self.maps_5T.is_cuda:  # other memory of the host is copied once the device is idle
            numbers_5T = numbers_5T.pin_memory()
        self.maps_5T[:, :total].copy_(numbers_5T, non_blocking=True)
        self.filled = total

    def leave_out_ends(self, ids_T: Int[Tensor, " slot"], sets_EN: Int[Tensor, "set end"]) -> None:
        """Count no sampled token that has ended its answer, among the tokens of the coming pass.

        Scheduled ahead, a step runs such a token before the host knows that it was drawn. Its id
        is on the device by then: nothing waits for it. `sets_EN` holds the sets of ends, filled up
        with numbers that are no token's.
        """
        rows_T, tally_T, set_T = (part[: self.filled] for part in self.maps_5T[1:4])
        is_end_T = (sets_EN[set_T] == ids_T[: self.filled, None]).any(-1)
        ended_T = is_end_T.long()
        self.left_out_S.index_add_(0, tally_T, ended_T)
        tally_T.masked_fill_(is_end_T, 0)
        rows = rows_of(self.deployment)
        if rows:
            self.left_out_R.index_add_(0, rows_T, ended_T)
            rows_T.masked_fill_(is_end_T, rows)

    def clear(self) -> None:
        """Steer, record and count no token until the maps are filled again."""
        self.maps_5T[:, : self.filled] = self.idle_5T[:, : self.filled]
        self.filled = 0


class SteeredLayer(nn.Module):
    """Steers and records one decoder layer's output, by tables that requests' settings fill."""

    shared: TokenMaps
    phase_T: Int[Tensor, " slot"]
    sums_row_T: Int[Tensor, " slot"]
    tally_row_T: Int[Tensor, " slot"]
    directions_SKD: Float[Tensor, "setting step hidden"]
    numbers_PKN: Float[Tensor, "phase step number"]
    is_bound_SK: Bool[Tensor, "setting step"]
    tally_S2: Int[Tensor, "setting two"]
    """Tokens seen and tokens moved."""
    sums_RD: Float[Tensor, "row hidden"]
    norms_R: Float[Tensor, " row"]
    probes_MD: Float[Tensor, "probe hidden"]
    projections_TM: Float[Tensor, "slot probe"]
    watched_D: Float[Tensor, " hidden"]
    """Direction on which tokens are projected before anything is steered here."""
    early_T: Int[Tensor, " slot"]
    watched_TN: Float[Tensor, "slot number"]

    def __init__(
        self,
        shared: TokenMaps,
        *,
        layer: int,
        hidden: int,
        device: torch.device,
        is_steered: bool,
        is_first: bool,
        is_sum: bool,
    ) -> None:
        super().__init__()
        self.layer, self.hidden, self.is_steered = layer, hidden, is_steered
        self.is_first = is_first
        """Whether no layer before it is steered here."""
        self.is_sum = is_sum
        """Whether the stream is the sum of the layer's two outputs; else it is the first."""
        # Not a submodule: every layer would list it again.
        object.__setattr__(self, "shared", shared)
        deployment = shared.deployment
        self.is_global = deployment.is_global
        self.records, self.probes = deployment.recordings > 0, deployment.probes > 0
        self.watches = deployment.watched_layer == layer
        self.counts_moves = is_steered and deployment.watched_layer is not None
        slots, steps = deployment.settings + 1, deployment.steps
        # vLLM builds models under its own default dtype: every dtype here is given.
        new: dict[str, Any] = {"dtype": torch.float32, "device": device}
        self.register_buffer("phase_T", shared.phase_T, persistent=False)
        self.register_buffer("sums_row_T", shared.sums_row_T, persistent=False)
        if is_steered:
            directions = torch.zeros(slots, steps, hidden, **new)
            self.register_buffer("directions_SKD", directions, persistent=False)
            numbers = _idle_numbers(device).repeat(2 * slots, steps, 1)
            self.register_buffer("numbers_PKN", numbers, persistent=False)
            self.register_buffer(
                "is_bound_SK", torch.zeros(slots, steps, dtype=torch.bool, device=device), False
            )
            self.register_buffer("tally_row_T", shared.tally_row_T, persistent=False)
            tally = torch.zeros(slots, 2, dtype=torch.int64, device=device)
            self.register_buffer("tally_S2", tally, persistent=False)
        if self.counts_moves or self.watches:
            self.register_buffer("watched_TN", shared.watched_TN, persistent=False)
        if self.records:
            rows = deployment.recordings + TRASH
            self.register_buffer("sums_RD", torch.zeros(rows, hidden, **new), persistent=False)
            self.register_buffer("norms_R", torch.zeros(rows, **new), persistent=False)
        if self.probes:
            probes = torch.zeros(deployment.probes, hidden, **new)
            self.register_buffer("probes_MD", probes, persistent=False)
            projections = torch.zeros(shared.max_tokens, deployment.probes, **new)
            self.register_buffer("projections_TM", projections, persistent=False)
        if self.watches:
            self.register_buffer("watched_D", torch.zeros(hidden, **new), persistent=False)
            self.register_buffer("early_T", shared.early_T, persistent=False)

    def forward(self, output: Any) -> Any:
        """The layer's output with the stream steered, in the form it came in."""
        if _is_batch(output):
            stream_1TD, *rest = (output,) if isinstance(output, Tensor) else output
            steered_1TD = self(stream_1TD[0])[None]
            return steered_1TD if isinstance(output, Tensor) else (steered_1TD, *rest)
        hidden, second = _parts(output, self.hidden)
        residual = second if self.is_sum else None
        if self.watches:
            self._watch(stream_of(hidden, residual))
        if self.is_steered:
            hidden = self._steer(hidden, residual)
        if self.records or self.probes:
            stream = stream_of(hidden, residual)
            tokens = stream.shape[0]
            if self.records:
                self._sum(stream, self.sums_row_T[:tokens])
            if self.probes:
                self.projections_TM[:tokens] = stream @ self.probes_MD.T
        if self.shared.trial is not None:
            hidden, second = self.shared.trial(self, hidden, second)
        return hidden if isinstance(output, Tensor) else (hidden, second)

    def _steer(self, hidden: Tensor, residual: Tensor | None) -> Tensor:
        stream = stream_of(hidden, residual)
        tokens = stream.shape[0]
        total: Tensor | None = None
        fired: Tensor | None = None
        for number in range(self.shared.deployment.steps):
            # Held globally, every token is in phase 2 of setting 1: no map is read.
            phase: Tensor | int = 2 if self.is_global else self.phase_T[:tokens]
            slot = phase >> 1
            direction, is_bound = self.directions_SKD[slot, number], self.is_bound_SK[slot, number]
            numbers = self.numbers_PKN[phase, number]
            projection = (stream * direction).sum(-1)
            slope, offset, low, high = numbers.unbind(-1)
            amount = shift(projection, slope, offset, low, high)
            moved = amount[:, None] * direction
            stream = stream + moved
            total = moved if total is None else total + moved
            now = (amount != 0) & is_bound
            fired = now if fired is None else fired | now
        assert total is not None and fired is not None  # noqa: PT018
        # Not index_add_: the compiler does not fuse it, and it costs as much as all the rest.
        if self.counts_moves:
            before = 0 if self.is_first else self.watched_TN[:tokens, 4]
            self.watched_TN[:tokens, 4] = before + fired.float()
        slots_S = torch.arange(len(self.tally_S2), device=stream.device)
        seen_TS = self.tally_row_T[:tokens, None] == slots_S
        fired_TS = seen_TS & fired[:, None]
        self.tally_S2.add_(torch.stack([seen_TS.sum(0), fired_TS.sum(0)], -1))
        return (hidden.float() + total).to(hidden.dtype)

    def _watch(self, stream: Float[Tensor, "token hidden"]) -> None:
        tokens = stream.shape[0]
        projection_T = (stream * self.watched_D).sum(-1)
        parts = [projection_T, projection_T.square(), projection_T * self.early_T[:tokens]]
        self.watched_TN[:tokens, 1:4] = torch.stack(parts, -1)

    def _sum(self, stream: Float[Tensor, "token hidden"], row_T: Int[Tensor, " token"]) -> None:
        norm_T = stream.pow(2).sum(-1).sqrt()  # the next layer's norm takes the same sum
        is_compiled = torch.compiler.is_compiling()
        if is_compiled and stream.device.type == "cpu":
            # Of index_add_ the compiler would make a compare-and-swap for each number, for which a
            # step pays several per cent. Without, of several tokens of one row the last counts.
            self.sums_RD[row_T] = self.sums_RD[row_T] + stream
            self.norms_R[row_T] = self.norms_R[row_T] + norm_T
        else:
            self.sums_RD.index_add_(0, row_T, stream)
            self.norms_R.index_add_(0, row_T, norm_T)
        if not is_compiled:
            self.shared.ran_eagerly = True

    def write(self, slot: int, setting: PackedInterventions | None) -> None:
        """Write a setting into a slot; None clears it. Between forward passes only."""
        if not self.is_steered:
            return
        self.directions_SKD[slot] = 0
        self.numbers_PKN[2 * slot : 2 * slot + 2] = _idle_numbers(self.numbers_PKN.device)
        self.is_bound_SK[slot] = False
        if setting is None:
            return
        (rows_N,) = (setting.layers_N == self.layer).nonzero(as_tuple=True)
        count, room = len(rows_N), self.directions_SKD.shape[1]
        if count > room:
            raise UsageError(
                f"{count} interventions at layer {self.layer}, but this engine was started "
                f"for {room}; start it with steps={count}"
            )
        self.directions_SKD[slot, :count] = setting.directions_ND[rows_N].to(self.directions_SKD)
        self.is_bound_SK[slot, :count] = setting.is_bound_N[rows_N].to(self.is_bound_SK)
        numbers_NK = setting.numbers_NK[rows_N].to(self.numbers_PKN)
        for phase, tokens in enumerate(_PHASES):
            acts_N = setting.acts_on(tokens)[rows_N]
            self.numbers_PKN[2 * slot + phase, :count][acts_N] = numbers_NK[acts_N]


def wrap(layer: nn.Module, steered: SteeredLayer) -> None:
    """Send a decoder layer's output through `steered`, from the next trace on.

    Raises ModelLayoutError for a layer that is wrapped already.
    """
    kind = type(layer)
    if hasattr(layer, "keel_layer"):
        raise ModelLayoutError(f"a {kind.__name__} is held already; wrap a model once")
    layer.keel_layer = steered

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.keel_layer(kind.forward(self, *args, **kwargs))

    layer.__class__ = type(f"Steered{kind.__name__}", (kind,), {"forward": forward})


def _is_batch(output: Any) -> bool:
    """Whether the output is that of a layer of transformers, which vLLM runs on a batch of one.

    It is the stream alone, [1, token, hidden]; what stands behind it in a tuple is not added to it.
    """
    first = output[0] if isinstance(output, tuple) and output else output
    return isinstance(first, Tensor) and first.ndim == 3 and first.shape[0] == 1


def _parts(output: Any, width: int) -> tuple[Tensor, Tensor | None]:
    """A layer's first output, and its second or None."""
    if isinstance(output, Tensor):
        hidden, second = output, None
    elif isinstance(output, tuple) and len(output) == 2:
        hidden, second = output
    else:
        raise ModelLayoutError(
            f"a decoder layer returned {type(output).__name__}, expected a tensor or "
            "(hidden, residual)"
        )
    if hidden.shape[-1] != width or hidden.ndim != 2:
        raise ModelLayoutError(
            f"a decoder layer returned {hidden.ndim} axes of last width {hidden.shape[-1]}, "
            f"expected [token, {width}]: one residual stream; models with several are held by the "
            "transformers engine, not under vLLM"
        )
    if second is not None and not isinstance(second, Tensor):
        raise ModelLayoutError(
            f"a decoder layer returned a {type(second).__name__} as its second output, expected "
            "the residual: a tensor or None"
        )
    return hidden, second


def stream_of(hidden: Tensor, residual: Tensor | None) -> Float[Tensor, "token hidden"]:
    """The residual stream in float32; `residual` is None where hidden has it already."""
    return hidden.float() if residual is None else hidden.float() + residual.float()


def _idle_numbers(device: torch.device) -> Float[Tensor, " number"]:
    """The numbers of an intervention that moves nothing."""
    return torch.tensor(ShiftNumbers(), dtype=torch.float32, device=device)
