"""Generates one batch and records it in the same pass, completions as they finish.

The loop drops rows that have finished, and runs every content token through the model, the last one
too: what `read` sees of the same tokens is the same. Nothing in a step waits for the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keel.engines.decoding import draw
from keel.engines.transformers.recorder import ResponseRecorder
from keel.engines.transformers.running import RunningRows, begin
from keel.engines.transformers.traits import BatchTraits
from keel.errors import UsageError
from keel.steering import PassTokens, Steering, first_of_rows
from keel.types import Sampling

_COMPACT_AT = 0.75
"""Finished rows are dropped when fewer than this share of the batch still runs."""


@dataclass(frozen=True)
class Finished:
    """A row that has ended, with its tokens."""

    index: int
    """Among the rows that are still in the batch."""
    row: int
    """In the batch as it began."""
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class GenerationJob:
    """Settings and callbacks of one batch."""

    sampling: Sampling
    end_tokens: frozenset[int]
    uniform_TB: Float[Tensor, "step row"]
    """In [0, 1): the number that decides each row's draw at each step."""
    recorder: ResponseRecorder
    traits: BatchTraits
    steering: Steering | None = None
    """Is given the rows that still run, so that firings on finished rows are not counted."""
    steps_ahead: int = 0
    """Steps that may begin before the tokens of one are read from the device."""
    on_token: Callable[[int, int], None] | None = None
    """Called with (row, token) as content is sampled."""
    on_step: Callable[[], None] | None = None
    """Called before each forward pass; what it raises ends the batch."""
    is_stopped: Callable[[Sequence[int]], bool] | None = None
    """Whether content tokens end with a stop string; None where there are none."""


def uniform_numbers(seed: int | Sequence[int], rows: int, steps: int) -> Float[Tensor, "step row"]:
    """Random numbers in [0, 1) for every row and step, from a seed for all rows or one for each.

    With a seed for each, a row's numbers are its own, whatever other rows there are.
    """
    if isinstance(seed, int):
        return torch.rand(steps, rows, generator=torch.Generator("cpu").manual_seed(seed))
    if len(seed) != rows:
        raise UsageError(f"{len(seed)} seeds for {rows} prompts; give one for all, or one each")
    own = [torch.Generator("cpu").manual_seed(row_seed) for row_seed in seed]
    return torch.stack([torch.rand(steps, generator=generator) for generator in own], 1)


def run_batch(
    model: Any, ids_BT: Tensor, mask_BT: Tensor, job: GenerationJob
) -> Iterator[Finished]:
    """Rows of a left-padded batch as they finish; each is yielded before its record is dropped."""
    with ExitStack() as stack:
        job.recorder.attach(stack)
        # One token more than wanted, so that the cache has room for the last one's own pass.
        length = job.sampling.max_new_tokens + 1
        passes = job.traits.passes
        running = begin(model, ids_BT, mask_BT, new_tokens=length, passes=passes)
        yield from _Loop(running, mask_BT, job).run()


@dataclass(frozen=True)
class _Drawn:
    """The tokens of one step on their way from the device to the host."""

    rows: Sequence[int]
    tokens_B: Int[Tensor, " row"]
    is_there: Any
    """A CUDA event behind the copy; None where there was nothing to wait for."""

    @classmethod
    def of(cls, rows: Sequence[int], tokens_B: Tensor) -> _Drawn:
        if tokens_B.device.type != "cuda":
            return cls(rows, tokens_B, None)
        copy_B = tokens_B.to("cpu", non_blocking=True)
        is_there = torch.cuda.Event()  # type: ignore[no-untyped-call]
        is_there.record()
        return cls(rows, copy_B, is_there)

    def read(self) -> list[tuple[int, int]]:
        """(row, token) of each row."""
        if self.is_there is not None:
            self.is_there.synchronize()
        return list(zip(self.rows, self.tokens_B.tolist(), strict=True))


class _Loop:
    """The state of one batch while it generates.

    The device knows at once which rows have ended, and counts nothing of them; the host knows it
    when it has read their tokens, up to `steps_ahead` steps later, and drops them then.
    """

    def __init__(self, running: RunningRows, mask_BT: Tensor, job: GenerationJob) -> None:
        self.running, self.mask_BT, self.job = running, mask_BT, job
        rows, self.prompt_width = mask_BT.shape
        self.rows = list(range(rows))
        self.sampled: list[list[int]] = [[] for _ in range(rows)]
        self.ended: list[bool] = [False] * rows
        self.stopped: list[bool] = [False] * rows
        self.handed_out: set[int] = set()
        device = mask_BT.device
        self.ends = torch.tensor(sorted(job.end_tokens), device=device)
        self.uniform_TB = job.uniform_TB.to(device)
        self.is_content_B = torch.ones(rows, dtype=torch.bool, device=device)
        self.unread: deque[_Drawn] = deque()

    def run(self) -> Iterator[Finished]:
        with torch.inference_mode():
            logits_BV = self._pass()
        for step in range(self.job.sampling.max_new_tokens):
            is_last = step == self.job.sampling.max_new_tokens - 1
            with torch.inference_mode():
                # Every row has its own number at every step, whatever rows have left the batch.
                uniform_B = self.uniform_TB[step]
                tokens_B = draw(logits_BV, self.job.sampling, uniform_B.to(logits_BV.device))
                tokens_B = tokens_B.to(self.ends.device)
                self.is_content_B &= ~(tokens_B[:, None] == self.ends).any(1)
                self.unread.append(_Drawn.of(self.rows, tokens_B))
                self._take(all_but=self.job.steps_ahead)
                if self._goes_on(is_last=is_last):
                    logits_BV = self._step(tokens_B)
                if is_last:
                    self._take(all_but=0)
            yield from self._leave(is_last=is_last)
            with torch.inference_mode():
                logits_BV = self._compact(logits_BV)
            if not self.rows:
                return

    def _pass(self) -> Tensor:
        if self.job.on_step is not None:
            self.job.on_step()
        width = self.running.prepare()
        if self.job.steering is not None:
            self.job.steering.marked = self._tokens(width)
        return self.running.run()

    def _tokens(self, width: int) -> PassTokens:
        """What a pass of so many columns holds: the prompts, a new token of each row, or both."""
        ids_BT = self.running.ids_BT
        if ids_BT.shape[1] == self.prompt_width:
            valid_BT = self.mask_BT.bool()
            return PassTokens(valid_BT.numel(), valid_BT, is_first=first_of_rows(valid_BT))
        is_content_B1 = self.is_content_B[:, None]
        if width == 1:
            return PassTokens(len(ids_BT), is_content_B1, is_generated=True)
        # Counted are the new tokens only; those before were, in passes of their own.
        column_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)[-width:]
        is_counted_BT = is_content_B1 & (column_T == ids_BT.shape[1] - 1)
        is_generated_BT = (column_T >= self.prompt_width).expand(len(ids_BT), -1)
        first_B = self.mask_BT[self.rows].argmax(1).to(column_T.device)
        is_first_BT = column_T == first_B[:, None]
        return PassTokens(is_counted_BT.numel(), is_counted_BT, is_generated_BT, is_first_BT)

    def _take(self, *, all_but: int) -> None:
        """Read the tokens of steps that lie far enough back."""
        while len(self.unread) > all_but:
            for row, token in self.unread.popleft().read():
                if self.ended[row] or token in self.job.end_tokens:
                    self.ended[row] = True
                    continue
                self.sampled[row].append(token)
                if self.job.is_stopped is not None:
                    self.stopped[row] = self.job.is_stopped(self.sampled[row])
                if self.job.on_token is not None:
                    self.job.on_token(row, token)

    def _goes_on(self, *, is_last: bool) -> bool:
        """Whether another pass is needed: for a next token, or to record the last one."""
        return any(
            not self.ended[row]
            and (self.job.recorder.records or not (is_last or self.stopped[row]))
            for row in self.rows
        )

    def _step(self, tokens_B: Tensor) -> Tensor:
        self.running.append(tokens_B)
        self.job.recorder.is_on = True
        logits_BV = self._pass()
        self.job.recorder.is_on = False
        self.job.recorder.commit(self.is_content_B)
        return logits_BV

    def _leave(self, *, is_last: bool) -> Iterator[Finished]:
        """Rows that have just ended or are full, while their records are at their indices."""
        for index, row in enumerate(self.rows):
            has_stopped = self.ended[row] or self.stopped[row]
            if (has_stopped or is_last) and row not in self.handed_out:
                tokens = tuple(self.sampled[row])
                yield Finished(index, row, tokens, "stop" if has_stopped else "length")
                self.handed_out.add(row)
                self.ended[row] = True

    def _compact(self, logits_BV: Tensor) -> Tensor:
        """Drop rows that have ended, if they are many and the model's state lets them go."""
        for index, row in enumerate(self.rows):
            if self.stopped[row]:  # which the device does not know by itself
                self.is_content_B[index] = False
        indices = [index for index, row in enumerate(self.rows) if not self.ended[row]]
        axes = self.job.traits.row_axes
        if not indices:
            self.rows = []
        elif axes is not None and len(indices) <= _COMPACT_AT * len(self.rows):
            keep = torch.tensor(indices, device=self.ends.device)
            if self.running.keep(keep, axes):
                self.rows = [self.rows[index] for index in indices]
                self.is_content_B = self.is_content_B[keep]
                self.uniform_TB = self.uniform_TB[:, keep]
                self.job.recorder.keep(keep)
                return logits_BV[keep.to(logits_BV.device)]
        return logits_BV
