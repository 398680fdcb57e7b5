"""Generates one batch and records it in the same pass, completions as they finish.

transformers prepares everything (cache, masks, positions) and hands over to the loop below, so
that each model's own rules hold. The loop drops rows that have finished, and runs every content
token through the model, the last one too: what `read` sees of the same tokens is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from keel.engines.decoding import draw
from keel.engines.transformers.recorder import ResponseRecorder
from keel.errors import UsageError
from keel.steering import PassTokens, Steering
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
    seed: int | Sequence[int]
    """Of the batch; or one per row, whose draws are then its own."""
    recorder: ResponseRecorder
    steering: Steering | None = None
    """Is given the rows that still run, so that firings on finished rows are not counted."""
    on_token: Callable[[int, int], None] | None = None
    """Called with (row, token) as content is sampled."""
    on_step: Callable[[], None] | None = None
    """Called before each forward pass; what it raises ends the batch."""
    is_stopped: Callable[[Sequence[int]], bool] | None = None
    """Whether content tokens end with a stop string; None where there are none."""


def run_batch(
    model: Any, ids_BT: Tensor, mask_BT: Tensor, job: GenerationJob
) -> Iterator[Finished]:
    """Rows of a left-padded batch as they finish; each is yielded before its record is dropped."""

    def loop(model: Any, input_ids: Tensor, **prepared: Any) -> Iterator[Finished]:
        for name in ("logits_processor", "stopping_criteria", "generation_config", "streamer"):
            prepared.pop(name, None)
        prepared.pop("synced_gpus", None)
        return _Loop(model, input_ids, prepared, job).run()

    with ExitStack() as stack:
        job.recorder.attach(stack)
        # One token more than wanted, so that the cache has room for the last one's own pass.
        length = job.sampling.max_new_tokens + 1
        arguments = {"max_new_tokens": length, "do_sample": False, "custom_generate": loop}
        with torch.inference_mode():
            finished = model.generate(input_ids=ids_BT, attention_mask=mask_BT, **arguments)
        yield from finished


class _Loop:
    """The state of one batch while it generates."""

    def __init__(
        self, model: Any, ids_BT: Tensor, prepared: dict[str, Any], job: GenerationJob
    ) -> None:
        self.model, self.ids_BT, self.prepared, self.job = model, ids_BT, prepared, job
        rows = ids_BT.shape[0]
        self.rows = list(range(rows))
        self.sampled: list[list[int]] = [[] for _ in range(rows)]
        self.ended: list[bool] = [False] * rows
        self.stopped: list[bool] = [False] * rows
        self.handed_out: set[int] = set()
        self.draws = _draws(job.seed, rows)

    def run(self) -> Iterator[Finished]:
        with torch.inference_mode():
            logits_BV = self._forward(is_first=True)
        while self.rows:
            with torch.inference_mode():
                # Every row has its own number at every step, whatever rows have left the batch.
                uniform_B = self.draws()[self.rows].to(logits_BV.device)
                tokens_B = draw(logits_BV, self.job.sampling, uniform_B)
                content = self._take(tokens_B.tolist())
                if self._goes_on(content):
                    logits_BV = self._step(tokens_B, content)
            yield from self._leave()
            with torch.inference_mode():
                logits_BV = self._compact(logits_BV)

    def _forward(self, *, is_first: bool) -> Tensor:
        if self.job.on_step is not None:
            self.job.on_step()
        inputs = self.model.prepare_inputs_for_generation(
            self.ids_BT,
            next_sequence_length=None if is_first else 1,
            is_first_iteration=is_first,
            **self.prepared,
        )
        outputs = self.model(**inputs, return_dict=True)
        update = self.model._update_model_kwargs_for_generation
        self.prepared = update(outputs, self.prepared, is_encoder_decoder=False)
        logits: Tensor = outputs.logits[:, -1]
        return logits

    def _take(self, tokens: list[int]) -> list[bool]:
        """Which current rows sampled content just now; others have ended, now or before."""
        content = []
        for row, token in zip(self.rows, tokens, strict=True):
            is_content = not self.ended[row] and token not in self.job.end_tokens
            content.append(is_content)
            if is_content:
                self.sampled[row].append(token)
                if self.job.is_stopped is not None:
                    self.stopped[row] = self.job.is_stopped(self.sampled[row])
                if self.job.on_token is not None:
                    self.job.on_token(row, token)
            self.ended[row] |= not is_content
        return content

    def _goes_on(self, content: list[bool]) -> bool:
        """Whether another pass is needed: for a next token, or to record the last one."""
        return any(
            is_content
            and (self.job.recorder.records or not (self.stopped[row] or self._is_full(row)))
            for is_content, row in zip(content, self.rows, strict=True)
        )

    def _is_full(self, row: int) -> bool:
        return len(self.sampled[row]) >= self.job.sampling.max_new_tokens

    def _step(self, tokens_B: Tensor, content: list[bool]) -> Tensor:
        self.ids_BT = torch.cat([self.ids_BT, tokens_B[:, None].to(self.ids_BT)], 1)
        if self.job.steering is not None:
            running_B = torch.tensor(content, device=self.ids_BT.device)
            self.job.steering.marked = PassTokens(
                len(content), running_B[:, None], is_generated=True
            )
        self.job.recorder.is_on = True
        logits_BV = self._forward(is_first=False)
        self.job.recorder.is_on = False
        self.job.recorder.commit(content)
        return logits_BV

    def _leave(self) -> Iterator[Finished]:
        """Rows that have just ended or are full, while their records are at their indices."""
        for index, row in enumerate(self.rows):
            has_stopped = self.ended[row] or self.stopped[row]
            if (has_stopped or self._is_full(row)) and row not in self.handed_out:
                tokens = tuple(self.sampled[row])
                yield Finished(index, row, tokens, "stop" if has_stopped else "length")
                self.handed_out.add(row)
                self.ended[row] = True

    def _compact(self, logits_BV: Tensor) -> Tensor:
        indices = [index for index, row in enumerate(self.rows) if not self.ended[row]]
        cache: Any = self.prepared.get("past_key_values")
        if not indices:
            self.rows = []
        elif len(indices) <= _COMPACT_AT * len(self.rows) and hasattr(
            cache, "batch_select_indices"
        ):
            keep = torch.tensor(indices, device=self.ids_BT.device)
            rows = len(self.rows)
            self.rows = [self.rows[index] for index in indices]
            self.prepared = {k: _select(v, keep, rows) for k, v in self.prepared.items()}
            cache.batch_select_indices(keep)
            self.ids_BT = self.ids_BT[keep]
            self.job.recorder.keep(keep, self.rows)
            return logits_BV[keep.to(logits_BV.device)]
        return logits_BV


def _draws(seed: int | Sequence[int], rows: int) -> Callable[[], Tensor]:
    """A function that draws a number in [0, 1) for every row, once per step."""
    if isinstance(seed, int):
        shared = torch.Generator("cpu").manual_seed(seed)
        return lambda: torch.rand(rows, generator=shared)
    if len(seed) != rows:
        raise UsageError(f"{len(seed)} seeds for {rows} prompts; give one for all, or one each")
    own = [torch.Generator("cpu").manual_seed(row_seed) for row_seed in seed]
    return lambda: torch.cat([torch.rand(1, generator=generator) for generator in own])


def _select(value: Any, keep: Tensor, rows: int) -> Any:
    """The rows to keep of a model input that has an entry per row; other inputs as they are."""
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == rows:
        return value[keep.to(value.device)]
    return value
