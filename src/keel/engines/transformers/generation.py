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
from jaxtyping import Float
from torch import Tensor

from keel.engines.decoding import check_drawn, draw, draw_by_sorting
from keel.engines.transformers.prefixes import PaddedPrompts
from keel.engines.transformers.recorder import ResponseRecorder, RowRecord
from keel.engines.transformers.running import RunningRows, begin
from keel.engines.transformers.static import Capture, StaticRows, begin_static
from keel.engines.transformers.traits import BatchTraits
from keel.engines.transformers.transfer import Transfer, sent
from keel.errors import UsageError
from keel.steering import PassTokens, Steering, first_of_rows
from keel.types import Sampling

_COMPACT_AT = 0.75
"""Finished rows are dropped when fewer than this share of the batch still runs."""


@dataclass(frozen=True)
class Finished:
    """A row that has ended, with its tokens and its record."""

    row: int
    """In the batch as it began."""
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]
    record: RowRecord


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
    """Steps that may begin before the tokens of one are read from the device. From one on, no step
    asks the device for anything."""
    is_static: bool = False
    """Whether the batch runs over a cache of fixed size."""
    capture: Capture | None = None
    """Captures a step over such a cache, so that it can be replayed."""
    on_token: Callable[[int, int], None] | None = None
    """Called with (row, token) as content is sampled."""
    on_step: Callable[[], None] | None = None
    """Called before each forward pass; what it raises ends the batch."""
    is_stopped: Callable[[Sequence[int]], bool] | None = None
    """Whether content tokens end with a stop string; None where there are none."""
    on_prompts: Callable[[dict[str, Any]], None] | None = None
    """Called with the model's state when the prompts are computed, before it is changed."""


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


def run_batch(model: Any, batch: PaddedPrompts, job: GenerationJob) -> Iterator[Finished]:
    """Rows of a left-padded batch as they finish."""
    ids_BT, mask_BT = batch.ids_BT, batch.mask_BT
    with ExitStack() as stack:
        job.recorder.attach(stack)
        # One token more than wanted, so that the cache has room for the last one's own pass.
        length = job.sampling.max_new_tokens + 1
        running: RunningRows | StaticRows
        if job.is_static:
            running = begin_static(model, ids_BT, mask_BT, new_tokens=length)
        else:
            passes = job.traits.passes
            running = begin(
                model, ids_BT, mask_BT, new_tokens=length, passes=passes, past=batch.past
            )
        yield from _Loop(running, mask_BT, job).run()


def run_prompts(model: Any, batch: PaddedPrompts, job: GenerationJob) -> None:
    """Compute a batch's prompts as `run_batch` does, and answer none of them."""
    passes = job.traits.passes
    running = begin(
        model, batch.ids_BT, batch.mask_BT, new_tokens=1, passes=passes, past=batch.past
    )
    with torch.inference_mode():
        _Loop(running, batch.mask_BT, job).run_prompts()


@dataclass(frozen=True)
class _Leaving:
    """Rows that have ended in one step, their records on the way to the host."""

    rows: Sequence[tuple[int, Literal["stop", "length"]]]
    records: Transfer


class _Loop:
    """The state of one batch while it generates.

    The device knows at once which rows have ended, and counts nothing of them; the host knows it
    when it has read their tokens, up to `steps_ahead` steps later, and drops them then.
    """

    def __init__(
        self, running: RunningRows | StaticRows, mask_BT: Tensor, job: GenerationJob
    ) -> None:
        self.running, self.mask_BT, self.job = running, mask_BT, job
        rows, self.prompt_width = mask_BT.shape
        self.rows = list(range(rows))
        self.sampled: list[list[int]] = [[] for _ in range(rows)]
        self.ended: list[bool] = [False] * rows
        """Rows that have an end token, or were handed out."""
        self.stopped: list[bool] = [False] * rows
        """Rows whose text has a stop string, of which the device knows nothing."""
        self.handed_out: set[int] = set()
        device = mask_BT.device
        self.ends = torch.tensor(sorted(job.end_tokens), device=device)
        # One row more: a captured step draws behind the last pass, too.
        self.uniform_TB = torch.nn.functional.pad(job.uniform_TB, (0, 0, 0, 1)).to(device)
        self.drawn_1 = torch.zeros(1, dtype=torch.long, device=device)
        """Draws so far, as the device counts them."""
        self.tokens_B = torch.zeros(rows, dtype=torch.long, device=device)
        """The latest draw."""
        self.is_content_B = torch.ones(rows, dtype=torch.bool, device=device)
        self.first_B = mask_BT.argmax(1)
        """The column of each row's first token."""
        self.unread: deque[tuple[Sequence[int], Transfer]] = deque()
        self.leaving: deque[_Leaving] = deque()
        self.replay: Callable[[], None] | None = None
        """Repeats a captured step."""
        self.draw = draw_by_sorting if job.steps_ahead or job.capture is not None else draw

    def run(self) -> Iterator[Finished]:
        with torch.inference_mode():
            self._before_pass()
            self._draw(self.run_prompts())
            logits_BV: Tensor | None
        for step in range(self.job.sampling.max_new_tokens):
            is_last = step == self.job.sampling.max_new_tokens - 1
            logits_BV = None
            with torch.inference_mode():
                self.unread.append((self.rows, Transfer.begin(self.tokens_B)))
                self._take(all_but=self.job.steps_ahead)
                if self._goes_on(is_last=is_last):
                    logits_BV = self._step(is_first=step == 0)
                if is_last:
                    self._take(all_but=0)
                self._leave(is_last=is_last)
            yield from self._finished(all_but=self.job.steps_ahead)
            with torch.inference_mode():
                kept = self._compact()
                if logits_BV is not None and not is_last:
                    self._draw(logits_BV if kept is None else logits_BV[kept.to(logits_BV.device)])
            if not self.rows:
                break
        yield from self._finished(all_but=0)

    def run_prompts(self) -> Tensor:
        """The prompts' own pass; logits of each row's first new token."""
        with self.job.recorder.listening(is_prompt=True):
            logits_BV = self._pass()
        if self.job.on_prompts is not None:
            self.job.on_prompts(self.running.state)
        return logits_BV

    def _draw(self, logits_BV: Tensor) -> None:
        # Every row has its own number at every step, whatever rows have left the batch.
        uniform_B = self.uniform_TB.index_select(0, self.drawn_1)[0].to(logits_BV.device)
        self.tokens_B.copy_(self.draw(logits_BV, self.job.sampling, uniform_B))
        self.drawn_1 += 1
        self.is_content_B &= ~(self.tokens_B[:, None] == self.ends).any(1)

    def _before_pass(self) -> None:
        if self.job.on_step is not None:
            self.job.on_step()

    def _pass(self) -> Tensor:
        width = self.running.prepare()
        if self.job.steering is not None:
            self.job.steering.marked = self._tokens(width)
        return self.running.run()

    def _tokens(self, width: int) -> PassTokens:
        """What a pass of so many columns holds: the prompts, a new token of each row, or both."""
        if not self.running.is_begun:
            valid_BT = self.mask_BT.bool()
            is_first_BT = first_of_rows(valid_BT)[:, -width:]
            valid_BT = valid_BT[:, -width:]
            return PassTokens(valid_BT.numel(), valid_BT, is_first=is_first_BT)
        is_content_B1 = self.is_content_B[:, None]
        if width == 1:
            return PassTokens(len(is_content_B1), is_content_B1, is_generated=True)
        # Counted are the new tokens only; those before were, in passes of their own.
        total, device = self.running.width, is_content_B1.device
        column_T = torch.arange(total, device=device)[-width:]
        is_counted_BT = is_content_B1 & (column_T == total - 1)
        is_generated_BT = (column_T >= self.prompt_width).expand(len(is_content_B1), -1)
        is_first_BT = column_T == self.first_B[:, None]
        return PassTokens(is_counted_BT.numel(), is_counted_BT, is_generated_BT, is_first_BT)

    def _take(self, *, all_but: int) -> None:
        """Read the tokens of steps that lie far enough back."""
        while len(self.unread) > all_but:
            rows, transfer = self.unread.popleft()
            tokens = transfer.finish()[0].tolist()
            check_drawn(tokens)
            for row, token in zip(rows, tokens, strict=True):
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

    def _step(self, *, is_first: bool) -> Tensor | None:
        """Run the latest draw through the model and return the next logits.

        None where a captured step has drawn from them.
        """
        self._before_pass()
        if self.job.capture is None or is_first:  # its first run makes the libraries ready
            return self._recorded_pass()
        if self.replay is None:
            self.replay = self.job.capture(lambda: self._draw(self._recorded_pass()))
        self.replay()
        return None

    def _recorded_pass(self) -> Tensor:
        self.running.append(self.tokens_B.clamp(min=0))  # NO_TOKEN has no embedding
        with self.job.recorder.listening(is_prompt=False):
            logits_BV = self._pass()
        self.job.recorder.commit(self.is_content_B)
        return logits_BV

    def _leave(self, *, is_last: bool) -> None:
        """Begin to hand out rows that have just ended or are full."""
        indices: list[int] = []
        rows: list[tuple[int, Literal["stop", "length"]]] = []
        for index, row in enumerate(self.rows):
            has_stopped = self.ended[row] or self.stopped[row]
            if (has_stopped or is_last) and row not in self.handed_out:
                indices.append(index)
                rows.append((row, "stop" if has_stopped else "length"))
                self.handed_out.add(row)
                self.ended[row] = True
        self.leaving.append(_Leaving(rows, self.job.recorder.hand_over(indices)))

    def _finished(self, *, all_but: int) -> Iterator[Finished]:
        """Rows that left in steps that lie far enough back."""
        while len(self.leaving) > all_but:
            leaving = self.leaving.popleft()
            for number, (row, finish) in enumerate(leaving.rows):
                tokens = tuple(self.sampled[row])
                record = self.job.recorder.record_of(leaving.records, number, len(tokens))
                yield Finished(row, tokens, finish, record)

    def _compact(self) -> Tensor | None:
        """Drop rows that have ended, if they are many and the model's state lets them go.

        Returns the indices of those that stay, or None where all do.
        """
        for index, row in enumerate(self.rows):
            if self.stopped[row]:
                self.is_content_B[index] = False
        indices = [index for index, row in enumerate(self.rows) if not self.ended[row]]
        axes = self.job.traits.row_axes
        if not indices:
            self.rows = []
        elif axes is not None and len(indices) <= _COMPACT_AT * len(self.rows):
            kept = sent(indices, self.ends.device)
            if self.running.keep(kept, axes):
                self.rows = [self.rows[index] for index in indices]
                self.is_content_B, self.tokens_B = self.is_content_B[kept], self.tokens_B[kept]
                self.uniform_TB, self.first_B = self.uniform_TB[:, kept], self.first_B[kept]
                self.job.recorder.keep(kept)
                return kept
        return None
