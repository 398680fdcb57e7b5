"""Learns by a few short passes how a model may be batched: padded or not, with its cache or not.

Nothing is known from a model's name: what transformers gives for rows in company is compared with
what it gives for the same tokens alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from keel.engines.transformers.running import Passes, RowAxes, RunningRows, begin, row_axes
from keel.engines.transformers.static import Capture, begin_static
from keel.errors import ModelLayoutError
from keel.words import first_line

_LENGTHS = (3, 17, 3)
"""Tokens of the rows that are tried."""
_WIDTH = 24
"""What they are padded to: enough for a model that reads padding to be led astray."""
_LEAST_EPS = 1e-6
"""For float32, where sums in another order, layer by layer, differ by more than its precision."""
_SURELY = 10
"""Refused is only what lies as many times further apart as rounding may bring it."""


@dataclass(frozen=True)
class BatchTraits:
    """Which ways of batching leave each row's logits as they are when the row runs alone."""

    passes: Passes
    """How the passes that generate are to be made."""
    has_company: bool
    """Several rows of one length generate together."""
    pads_left: bool
    """Rows of different lengths generate together, with padding before the shorter ones."""
    pads_right: bool
    """Rows of different lengths are read together, with padding behind the shorter ones."""
    row_axes: RowAxes | None
    """How rows leave the model's state; None where they must stay in the batch to its end."""


def traits_of(model: Any, device: torch.device, pad: int) -> BatchTraits:
    """Which ways of batching hold for this model, tried on three rows of up to 17 tokens.

    A short cut that raises an error is one that does not hold. Raises ModelLayoutError for a model
    whose tokens see those behind them, or that predicts otherwise when it generates than in a plain
    forward pass, and what the model raises where not even a row alone runs.
    """
    with torch.inference_mode():
        trial = _Trial(model, device, pad)
        if not bool(torch.isfinite(trial.alone_BNV).all()):
            # Nothing can be compared. Who generates is told of NaN, with the remedy for it.
            return BatchTraits(Passes(True, True), False, False, False, None)
        trial.check_causal()
        passes = trial.passes()
        pads_left = trial.holds([0, 1, 2], lambda: trial.generated([0, 1, 2], _WIDTH, passes))
        if device.type == "cuda" and pads_left:
            passes = trial.unasked(passes)
        has_company = pads_left or trial.holds(
            [0, 2], lambda: trial.generated([0, 2], _LENGTHS[0], passes)
        )
        axes = trial.row_axes(passes, pads=pads_left) if has_company else None
        pads_right = trial.holds([0, 1, 2], trial.read)
    return BatchTraits(passes, has_company, pads_left, pads_right, axes)


def why_not_static(
    model: Any, device: torch.device, pad: int, traits: BatchTraits, capture: Capture | None
) -> str | None:
    """Why steps over a cache of fixed size, captured once and replayed, would be wrong.

    None where they give each row the logits that it has alone.

    Only layers that keep all keys and values, on one device, can be replayed: the length of a
    sliding window or of a linear state is counted in Python.
    """
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1 or len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        return f"its layers lie on {', '.join(sorted(devices))}, or are moved there when they run"
    if not (replace(traits.passes, is_mask_given=False) == Passes() and traits.pads_left):
        return "it is not run with a cache, positions and padding"
    try:
        with torch.inference_mode():
            trial = _Trial(model, device, pad)
            holds = _are_close(trial.stepped(capture), trial.alone_BNV)
    except Exception as error:
        return first_line(error)
    return None if holds else "its logits are others than with a cache that grows"


class _Trial:
    """Rows of tokens, and the logits that each has alone: after its tokens and after one more."""

    def __init__(self, model: Any, device: torch.device, pad: int) -> None:
        self.model, self.device, self.pad = model, device, pad
        vocabulary = len(model.get_input_embeddings().weight)
        draws = torch.Generator().manual_seed(0)
        # Of the middle of the vocabulary: at its ends stand special tokens.
        bounds = vocabulary // 8, vocabulary // 2
        self.rows = [torch.randint(*bounds, (n + 1,), generator=draws) for n in _LENGTHS]
        self.alone_BNV = torch.stack([self._alone(row) for row in self.rows])

    def check_causal(self) -> None:
        """Raise ModelLayoutError where a token's prediction hangs on the tokens behind it."""
        before_V = self._plain(self.rows[1][None, :-1])[0, -1]
        if not _are_close(before_V, self.alone_BNV[1, 0], times=_SURELY):
            remedy = "Keel reads and answers with models in which a token sees only those before it"
            if getattr(self.model.config, "is_decoder", None) is False:
                remedy = "load it as a decoder, with `is_decoder=True` in its config"
            raise ModelLayoutError(
                f"in {type(self.model).__name__} a token sees those behind it; {remedy}"
            )

    def holds(
        self, rows: Sequence[int], logits: Callable[[], Float[Tensor, "row step vocabulary"]]
    ) -> bool:
        """Whether these logits can be had, and are those of the rows alone."""
        with suppress(Exception):
            return _are_close(logits(), self.alone_BNV[rows])
        return False

    def passes(self) -> Passes:
        """The first way to generate, the fastest first, that holds for a row alone.

        Raises ModelLayoutError where none does.
        """
        for reuses_state, takes_positions in product((True, False), (True, False)):
            passes = Passes(reuses_state, takes_positions)
            if self.holds([0], lambda: self.generated([0], _LENGTHS[0], passes)):  # noqa: B023
                return passes
        raise ModelLayoutError(
            f"{type(self.model).__name__} predicts otherwise when it generates than in a plain "
            "forward pass of the same tokens, with its cache and without; Keel cannot tell which "
            "is right, and does not run it"
        )

    def unasked(self, passes: Passes) -> Passes:
        """These passes with masks given, so that transformers need not look, where that holds."""
        given = replace(passes, is_mask_given=True)
        holds = all(  # padded together, and one alone without padding
            self.holds(rows, lambda rows=rows, width=width: self.generated(rows, width, given))  # type: ignore[misc]
            for rows, width in (([0, 1, 2], _WIDTH), ([0], _LENGTHS[0]))
        )
        return given if holds else passes

    def generated(
        self, rows: Sequence[int], width: int, passes: Passes
    ) -> Float[Tensor, "row step vocabulary"]:
        """The logits when the rows generate together."""
        running = self._begin(rows, width, passes)
        running.prepare()
        first_BV = running.run()
        running.append(self._last(rows))
        running.prepare()
        return torch.stack([first_BV, running.run()], 1)

    def stepped(self, capture: Capture | None) -> Float[Tensor, "row step vocabulary"]:
        """The logits of two steps behind the prompts, over a cache of fixed size.

        The second is replayed if a step can be captured.
        """
        ids_BT, mask_BT = self._left_padded(range(len(self.rows)), _WIDTH, steps=2)
        running = begin_static(self.model, ids_BT, mask_BT, new_tokens=3)
        running.prepare()
        logits_BV = torch.empty_like(running.run())
        tokens_B = self._last(range(len(self.rows)), -2).to(self.device)

        def step() -> None:
            running.append(tokens_B)
            running.prepare()
            logits_BV.copy_(running.run())

        step()
        first_BV = logits_BV.clone()
        tokens_B.copy_(self._last(range(len(self.rows))))
        (step if capture is None else capture(step))()
        return torch.stack([first_BV, logits_BV], 1)

    def read(self) -> Float[Tensor, "row step vocabulary"]:
        """The logits when all rows are read together, padded behind."""
        ids_BT = torch.full((len(self.rows), _WIDTH), self.pad)
        for index, row in enumerate(self.rows):
            ids_BT[index, : len(row)] = row
        logits_BTV = self._plain(ids_BT)
        ends = [(index, len(row)) for index, row in enumerate(self.rows)]
        return torch.stack([logits_BTV[index, end - 2 : end] for index, end in ends])

    def row_axes(self, passes: Passes, *, pads: bool) -> RowAxes | None:
        """How rows leave the state: learned from batches of two and three rows, then tried."""
        width = _WIDTH if pads else _LENGTHS[0]
        kept, all_rows = [0, 2], [1 if pads else 2, 0, 2]
        with suppress(Exception):
            fewer = self._begin(kept, width, passes)
            fewer.prepare()
            fewer.run()
            running = self._begin(all_rows, width, passes)
            running.prepare()
            running.run()
            axes = row_axes(fewer.state, running.state)
            if axes is not None and running.keep(torch.tensor([1, 2]), axes):
                running.append(self._last(kept))
                running.prepare()
                if _are_close(running.run(), self.alone_BNV[kept, 1]):
                    return axes
        return None

    def _alone(self, row: Tensor) -> Float[Tensor, "step vocabulary"]:
        """The logits after a row's tokens and after one more.

        Raises ModelLayoutError where there is not one prediction for each token.
        """
        logits_TV = self._plain(row[None])[0]
        if len(logits_TV) != len(row):
            raise ModelLayoutError(
                f"{type(self.model).__name__} gives {len(logits_TV)} predictions for {len(row)} "
                "tokens, expected one for each: it puts tokens of its own before them (prompt "
                "tuning), for which Keel's engines have no position; keel.steered takes it"
            )
        return logits_TV[-2:]

    def _plain(self, ids_BT: Tensor) -> Float[Tensor, "row token vocabulary"]:
        logits: Tensor = self.model(input_ids=ids_BT.to(self.device), use_cache=False).logits
        return logits

    def _begin(self, rows: Sequence[int], width: int, passes: Passes) -> RunningRows:
        ids_BT, mask_BT = self._left_padded(rows, width)
        return begin(self.model, ids_BT, mask_BT, new_tokens=2, passes=passes)

    def _left_padded(
        self, rows: Sequence[int], width: int, *, steps: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Ids and mask of the rows without the tokens of so many steps."""
        ids_BT = torch.full((len(rows), width), self.pad)
        mask_BT = torch.zeros_like(ids_BT)
        for index, row in enumerate(rows):
            tokens = self.rows[row][:-steps]
            ids_BT[index, width - len(tokens) :] = tokens
            mask_BT[index, width - len(tokens) :] = 1
        return ids_BT.to(self.device), mask_BT.to(self.device)

    def _last(self, rows: Sequence[int], position: int = -1) -> Tensor:
        return torch.stack([self.rows[row][position] for row in rows])


def _are_close(logits: Tensor, expected: Tensor, times: float = 1) -> bool:
    """Whether they differ by rounding at most, or so many times as much.

    Rounding is the square root of what the type can tell apart, as a share of how far an expected
    row's logits lie from each other.
    """
    apart = torch.linalg.vector_norm(logits.float() - expected.float(), dim=-1)
    spread = expected.float().std(-1, correction=0) * expected.shape[-1] ** 0.5
    rounding = max(torch.finfo(expected.dtype).eps, _LEAST_EPS) ** 0.5
    return bool((apart <= times * rounding * spread).all())
