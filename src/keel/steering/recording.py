"""Records a transformer's residual stream in the forward passes that it makes anyway.

Sums are formed in float32 while the model runs. Memory is [layer, row, hidden] for the means and
[row, token, probe] for projections; no [token, hidden] tensor outlives its block.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from keel.errors import ModelLayoutError, NotAppliedError, TooFewSamplesError, UsageError
from keel.steering.blocks import Decoder, check_fits, find_decoder
from keel.steering.passes import (
    PassTokens,
    cache_given,
    cache_in,
    follow_passes,
    is_computed_again,
    pass_inputs,
    pass_shape,
    pass_tokens,
)
from keel.steering.sequences import GenerateCall, PassSpan, SequenceFollower, refuse_to_leave
from keel.types import Activations, TokenMask, check_direction


@dataclass(frozen=True)
class Probe:
    """A unit direction at a layer on which every token's projection is recorded."""

    layer: int
    direction: Float[Tensor, " hidden"]


@contextmanager
def recorded(
    model: nn.Module,
    *,
    tokens: TokenMask = "all",
    mask: Bool[Tensor, "row token"] | None = None,
    means: bool = True,
    probes: Sequence[Probe] = (),
    end_tokens: Sequence[int] | None = None,
    blocks: str | Sequence[nn.Module] | None = None,
) -> Iterator[StreamRecord]:
    """Means and projections of the residual stream over the tokens that pass the model inside.

    Any torch transformer whose blocks run once a pass, on the tokens that it is given:
    `model(...)` and `model.generate(...)`, any cache, batch and padding, from any thread.
    Every row of every call that starts with an empty cache is a row of the record; calls that go
    on with a row's cache add to it. Inside `steered` or around it: what is recorded is steered.

    Counted are `tokens`: "all", those of the "prompt", "generated" ones, or all but the first
    ("not_first"). Never padding, never from the first of `end_tokens` on that was generated (None:
    those of the model's generation config). The last token that `generate` samples does not pass
    the model and is not counted. `mask` narrows it to given positions, counted from the start of
    the cache as in `attention_mask`; positions beyond it are not counted.

    `means` off records `probes` only, which costs nothing at other layers. `blocks` names the list
    of decoder blocks where the search for it fails. A compiled model runs uncompiled inside.

    Raises ModelLayoutError for an unknown layout or a looped model, UsageError for a layer or width
    the model lacks, for beam search, assisted decoding and other calls that take cached tokens
    back, and NotAppliedError when a pass went past some layer's hook, ran a block twice, or a
    thread still generates at the end.
    """
    decoder = find_decoder(model, blocks)
    if end_tokens is None:
        configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        listed = configured if isinstance(configured, Sequence) else [configured]
        end_tokens = [token for token in listed if token is not None]
    record = StreamRecord(
        decoder, tokens, mask, means=means, probes=probes, end_tokens=frozenset(end_tokens)
    )
    with ExitStack() as stack:
        # A graph compiled before does not have our hooks, and one compiled now would keep them.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        follow_passes(model, decoder, record, stack)
        record.attach(stack)
        yield record
        refuse_to_leave(decoder.stack, "recorded")


class StreamRecord:
    """Means and projections recorded so far: a row for each row of the batches that ran."""

    def __init__(
        self,
        decoder: Decoder,
        tokens: TokenMask,
        mask: Bool[Tensor, "row token"] | None,
        *,
        means: bool,
        probes: Sequence[Probe],
        end_tokens: frozenset[int],
    ) -> None:
        if decoder.hidden_size is None:
            raise ModelLayoutError("the model's config names no hidden size; give one that does")
        for probe in probes:
            check_direction(probe.direction, probe.layer)
            check_fits(decoder, probe.layer, probe.direction, "a probe")
        self._decoder, self._tokens, self._mask = decoder, tokens, mask
        self._has_means, self._probes, self._end_tokens = means, tuple(probes), end_tokens
        self._layers = range(len(decoder.blocks)) if means else sorted({p.layer for p in probes})
        self._handles: list[tuple[nn.Module, int]] = []
        self._batches: list[_BatchRecord] = []
        self._here = _ThreadState(decoder.stack)

    @property
    def counts(self) -> list[int]:
        """Number of tokens counted in each row."""
        self._drop_broken_pass()
        return [count for batch in self._batches for count in batch.counts_B.tolist()]

    @property
    def activations(self) -> list[Activations]:
        """Each row's means over its counted tokens, at every layer.

        Raises TooFewSamplesError for a row that has none, UsageError where `means` was off.
        """
        if not self._has_means:
            raise UsageError("no means were recorded; use recorded(..., means=True)")
        empty = [row for row, count in enumerate(self.counts) if not count]
        if not self._batches:
            raise TooFewSamplesError("no forward pass was recorded; run the model in the context")
        if empty:
            raise TooFewSamplesError(
                f"rows {empty} have no counted token ({self._tokens}); see `counts`, and count "
                "other tokens or leave those rows out"
            )
        return [
            batch.sums.mean(row, count)
            for batch in self._batches
            for row, count in enumerate(batch.counts_B.tolist())
        ]

    @property
    def means(self) -> Float[Tensor, "row layer hidden"]:
        """Each row's mean residual stream over its counted tokens, in float32. Raises as above."""
        return torch.stack([activations.means_LD for activations in self.activations])

    @property
    def projections(self) -> list[Float[Tensor, "token probe"]]:
        """Each row's projections at its counted tokens, a column per probe."""
        self._drop_broken_pass()
        return [batch.projections(row) for batch in self._batches for row in range(batch.rows)]

    def attach(self, stack: ExitStack) -> None:
        """Hook the blocks that are recorded; the stack removes exactly these hooks."""
        for layer in self._layers:
            handle = self._decoder.blocks[layer].register_forward_hook(self._hook(layer))
            stack.callback(handle.remove)
            self._handles.append((self._decoder.blocks[layer], handle.id))

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the tokens of the pass that starts."""
        if is_computed_again():
            return
        self._drop_broken_pass()
        span = self._here.sequences.follow(args, kwargs)
        self._here.begun = _Pass.of(args, kwargs, span, self._tokens)

    def enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The pass reaches the blocks: from here on every layer must see its tokens."""
        if is_computed_again():
            return
        self._drop_broken_pass()
        if self._here.begun is None:
            self.begin(args, kwargs)
        here = self._here.begun
        assert here is not None
        here.check_runs(pass_shape(args, kwargs)[1])
        self._move_hooks_last()
        batch = next((b for b in reversed(self._batches) if b.goes_on(here)), None)
        if batch is None:
            here.check_begins_rows()
            if self._here.latest is not None:
                self._here.latest.sums.to(torch.device("cpu"))
            layers = len(self._decoder.blocks) if self._has_means else 0
            batch = _BatchRecord(here, layers, self._decoder.hidden_size or 0, len(self._probes))
        batch.open(here, here.counted(self._tokens, self._mask), self._end_tokens)
        self._here.running = self._here.latest = batch

    def end(self, output: Any) -> None:
        """The pass has left the blocks: what it gave is counted."""
        running = self._here.running
        if running is not None:
            missed = sorted(set(self._layers) - running.seen)
            if missed:
                raise NotAppliedError(
                    f"a forward pass went past layers {missed}; something runs the model past its "
                    "hooks: do not trust this record"
                )
            if not running.passes:
                self._batches.append(running)
            running.commit(cache_in(output))
        self._here.begun = self._here.running = None

    def _move_hooks_last(self) -> None:
        """Run behind hooks that came later, such as those that steer."""
        for block, hook in self._handles:
            if next(reversed(block._forward_hooks)) != hook:
                block._forward_hooks[hook] = block._forward_hooks.pop(hook)

    def _drop_broken_pass(self) -> None:
        """Forget a pass that was broken off, and rows that it summed at some layers only."""
        running = self._here.running
        if running is not None:
            if running.is_spoilt and running in self._batches:
                self._batches.remove(running)
            self._here.begun = self._here.running = None

    def _hook(self, layer: int) -> Any:
        columns = [k for k, probe in enumerate(self._probes) if probe.layer == layer]
        directions_KD = [self._probes[k].direction.float() for k in columns]

        def hook(_block: nn.Module, _args: Any, output: Any) -> None:
            if is_computed_again():
                return
            running = self._here.running
            if running is None:
                raise NotAppliedError(f"block {layer} ran outside a forward pass of its model")
            hidden_BTD = self._decoder.layout.stream_in(output).detach()
            running.take(layer, hidden_BTD)
            for column, direction in zip(columns, directions_KD, strict=True):
                running.project(column, hidden_BTD.float() @ direction.to(hidden_BTD.device))

        return hook


class _ThreadState(threading.local):
    """What one thread records: threads may run the model at once, each in a pass of its own."""

    def __init__(self, stack: nn.Module) -> None:
        """Called anew in every thread that looks."""
        self.sequences = SequenceFollower(stack)
        self.begun: _Pass | None = None
        self.running: _BatchRecord | None = None
        """The batch whose pass has reached the blocks and has not come to its end."""
        self.latest: _BatchRecord | None = None


class StreamSums:
    """Sums of the residual stream and of its norm over tokens, for each layer and row of a batch.

    In float32 on one device, whatever dtype and devices the blocks have.
    """

    def __init__(self, layers: int, rows: int, hidden: int, device: torch.device) -> None:
        with torch.inference_mode(False):  # or no pass outside inference mode could add to them
            self.sums_LBD = torch.zeros(layers, rows, hidden, device=device)
            self.norms_LB = torch.zeros(layers, rows, device=device)
        self.latest_LBD: Tensor | None = None

    def put(self, layer: int, hidden_BD: Float[Tensor, "row hidden"]) -> None:
        """Keep a layer's output at one token per row, in the model's dtype, for `add_latest`.

        One copy per layer and step: the sums are then formed for all layers at once.
        """
        if self.latest_LBD is None:
            shape = (len(self.sums_LBD), *hidden_BD.shape)
            device = self.sums_LBD.device
            self.latest_LBD = torch.full(shape, torch.nan, dtype=hidden_BD.dtype, device=device)
        self.latest_LBD[layer].copy_(hidden_BD)

    def add_latest(self, weight_B: Float[Tensor, " row"]) -> None:
        """Add the latest outputs of all layers, in rows of weight 1, not in those of weight 0."""
        if self.latest_LBD is None:
            return
        latest_LBD = self.latest_LBD.float()
        self.sums_LBD.addcmul_(latest_LBD, weight_B[:, None])
        self.norms_LB.addcmul_(torch.linalg.vector_norm(latest_LBD, dim=-1), weight_B)

    def add(
        self,
        layer: int,
        hidden_BTD: Float[Tensor, "row token hidden"],
        counted_BT: Bool[Tensor, "row token"],
    ) -> None:
        """Add a layer's output at the counted tokens."""
        # Not by weights of 0: some models give NaN at padding.
        counted_BTD = hidden_BTD.float().masked_fill(~counted_BT[..., None], 0)
        self.sums_LBD[layer] += counted_BTD.sum(1).to(self.sums_LBD.device)
        norms_B = torch.linalg.vector_norm(counted_BTD, dim=-1).sum(1)
        self.norms_LB[layer] += norms_B.to(self.norms_LB.device)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows only, given by index."""
        self.sums_LBD = self.sums_LBD.index_select(1, rows)
        self.norms_LB = self.norms_LB.index_select(1, rows)
        self.latest_LBD = None

    def to(self, device: torch.device) -> None:
        """Move the sums to a device."""
        if device != self.sums_LBD.device:
            self.sums_LBD, self.norms_LB = self.sums_LBD.to(device), self.norms_LB.to(device)
            self.latest_LBD = None

    def mean(self, row: int, count: int) -> Activations:
        """A row's means over the `count` tokens that were added to it."""
        means_LD = (self.sums_LBD[:, row] / count).cpu()
        return Activations(means_LD, (self.norms_LB[:, row] / count).cpu(), count)


@dataclass(frozen=True)
class _Pass:
    """One forward pass: its batch, where in its sequences it starts, and which tokens it holds."""

    tokens: PassTokens
    rows: int
    length: int
    ids_BT: Tensor | None
    cache: Any
    call: GenerateCall | None
    start: int | None
    """Tokens of its rows before it; None where only the record of those rows tells."""

    @classmethod
    def of(
        cls, args: tuple[Any, ...], kwargs: dict[str, Any], span: PassSpan, recorded: TokenMask
    ) -> _Pass:
        """The pass with these arguments; raises UsageError where its kinds of tokens matter only.

        `recorded` are the tokens that a record is of.
        """
        inputs, (rows, length) = pass_inputs(args, kwargs), pass_shape(args, kwargs)
        is_ids = inputs is not None and not inputs.is_floating_point()
        is_generated: bool | Tensor = False
        if span.is_known or recorded in ("prompt", "generated"):
            is_generated = span.is_generated(torch.device("cpu"))
        start = span.first_position() if recorded == "not_first" else None
        tokens = pass_tokens(args, kwargs, is_generated, start)
        ids_BT, cache = inputs if is_ids else None, cache_given(kwargs)
        return cls(tokens, rows, length, ids_BT, cache, span.call, span.start)

    def check_runs(self, length: int) -> None:
        """Raise ModelLayoutError where the blocks run other tokens than the model was given."""
        if length != self.length:
            raise ModelLayoutError(
                f"the blocks run {length} tokens of the {self.length} that the model was given: it "
                "puts some of its own before them (prompt tuning, a prefix), or cuts them itself, "
                "and a record has no position for those; record the model inside, behind what adds "
                "or cuts tokens"
            )

    def check_begins_rows(self) -> None:
        """Raise UsageError where rows of a record cannot begin with this pass, or not go on."""
        if self.call is not None and not self.call.is_steady:
            raise UsageError(
                f"generate() decodes by {self.call.mode}, which moves a batch's rows or takes "
                "tokens back; record greedy search or sampling (num_beams=1, no assistant)"
            )
        if self.start is None:
            raise UsageError(
                "a pass goes on from earlier ones that were not recorded, and nothing tells how "
                "long they were; run the whole conversation inside `recorded`"
            )

    def counted(
        self, tokens: TokenMask, mask: Bool[Tensor, "row position"] | None
    ) -> Bool[Tensor, "row token"]:
        """Its tokens of this kind that are no padding and lie in the mask."""
        counted_BT = torch.ones(self.rows, self.length, dtype=torch.bool)
        for condition in (self.tokens.acting(tokens), self.tokens.valid_BT):
            if condition is not None:
                counted_BT &= condition.cpu() if isinstance(condition, Tensor) else condition
        if mask is not None:
            if len(mask) != self.rows:
                raise UsageError(f"mask has {len(mask)} rows, but the batch has {self.rows}")
            start = self.start or 0
            here_BT = mask[:, start : start + self.length].cpu().bool()
            counted_BT[:, : here_BT.shape[1]] &= here_BT
            counted_BT[:, here_BT.shape[1] :] = False
        return counted_BT


class _BatchRecord:
    """The rows of one batch, from the pass over its prompt to the last token generated."""

    def __init__(self, first: _Pass, layers: int, hidden_size: int, probes: int) -> None:
        self.rows, self.length = first.rows, first.start or 0
        self.call = first.call
        self.cache: weakref.ref[Any] | None = None
        self.sums = StreamSums(layers, self.rows, hidden_size, torch.device("cpu"))
        self.device: torch.device | None = None
        """Where the first layer that is recorded runs; None before it has."""
        self.has_means, self.probes = layers > 0, probes
        self.counts_B = torch.zeros(self.rows, dtype=torch.int64)
        self.is_over_B = torch.zeros(self.rows, dtype=torch.bool)
        self.passes: list[tuple[Tensor, Tensor]] = []
        """(projections [row, token, probe], counted [row, token]) of each pass."""

    def goes_on(self, here: _Pass) -> bool:
        """Whether a pass continues these rows: by the same call of `generate`, or their cache."""
        if here.call is not None and here.call is self.call:
            return True
        return here.start != 0 and self.cache is not None and self.cache() is here.cache

    def open(
        self, here: _Pass, counted_BT: Bool[Tensor, "row token"], end_tokens: frozenset[int]
    ) -> None:
        """Begin a pass over these rows, of whose tokens those are counted.

        What a call without a cache runs again is not counted again. No generated token is counted
        from a row's first end token on: what follows is filling.
        Raises UsageError for a pass that does not go on where the last one stopped.
        """
        start = self.length if here.start is None else here.start
        is_run_again = start == 0 and here.call is not None and here.length > self.length
        if here.rows != self.rows or (start != self.length and not is_run_again):
            raise UsageError(
                f"a pass of {here.rows} rows starts at token {start} of its cache, expected "
                f"{self.rows} rows at token {self.length}: a cache was rewound or its rows "
                "changed; give the rows of a call a cache of their own"
            )
        counted_BT[:, : self.length - start] = False
        counted_BT &= ~self._is_filling(here, self.length - start, end_tokens)
        self.here, self.counted_BT, self.stop = here, counted_BT, start + here.length
        self.seen: set[int] = set()
        self.latest_BTK = torch.zeros(*counted_BT.shape, self.probes)
        if self.device is not None:
            self.sums.to(self.device)

    def _is_filling(
        self, here: _Pass, first: int, end_tokens: frozenset[int]
    ) -> Bool[Tensor, "row token"]:
        """Generated tokens from a row's first end token on, among the new ones, from `first` on."""
        shape, is_generated = (here.rows, here.length), here.tokens.is_generated
        generated_BT = torch.as_tensor(is_generated, dtype=torch.bool).cpu().expand(shape).clone()
        generated_BT[:, :first] = False
        if here.ids_BT is None or not bool(generated_BT.any()):
            return torch.zeros_like(generated_BT)
        ends_BT = (
            torch.isin(here.ids_BT.cpu(), torch.tensor(sorted(end_tokens), dtype=torch.long))
            & generated_BT
        )
        is_over_BT = (ends_BT.cumsum(1) > 0) | self.is_over_B[:, None]
        self.is_over_B = self.is_over_B | ends_BT.any(1)
        return generated_BT & is_over_BT

    def take(self, layer: int, hidden_BTD: Tensor) -> None:
        """Add what a layer gives in the pass under way."""
        if layer in self.seen:
            raise NotAppliedError(
                f"block {layer} ran twice in a forward pass; it cannot be recorded"
            )
        self.seen.add(layer)
        if self.device is None:
            self.device = hidden_BTD.device
            self.sums.to(self.device)
        if self.has_means and self.here.length == 1:
            self.sums.put(layer, hidden_BTD[:, 0])
        elif self.has_means:
            self.sums.add(layer, hidden_BTD, self.counted_BT.to(hidden_BTD.device))

    def project(self, column: int, projections_BT: Tensor) -> None:
        """Keep one probe's projections of the pass under way."""
        self.latest_BTK[..., column] = projections_BT.cpu()

    def commit(self, cache: Any) -> None:
        """Count the pass, at whose end every layer was seen, and know its rows by their cache."""
        cache = cache if cache is not None else self.here.cache
        self.cache = None if cache is None else weakref.ref(cache)
        self.length = self.stop
        self.counts_B += self.counted_BT.sum(1)
        if self.here.length == 1:
            self.sums.add_latest(self.counted_BT[:, 0].float().to(self.sums.sums_LBD.device))
        self.passes.append((self.latest_BTK, self.counted_BT))

    @property
    def is_spoilt(self) -> bool:
        """Whether a pass that was broken off left sums at some layers only, or was the first."""
        return self.here.length > 1 or not self.passes

    def projections(self, row: int) -> Float[Tensor, "token probe"]:
        """A row's projections at its counted tokens."""
        return torch.cat([values[row, counted[row]] for values, counted in self.passes])
