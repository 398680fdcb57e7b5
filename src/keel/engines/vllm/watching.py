"""Sums over each answer's projections at one layer, kept on the device until the answer ends.

Of an answer's tokens as the model reads them, not of its prompt's; tokens that end an answer are
left out. Knows no axis' meaning and no conversations: a key comes in with the request, five
numbers go out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from keel.engines.vllm.layers import SteeredLayer, TokenMaps
from keel.engines.vllm.token_book import TRASH, WATCH, WATCHED_AT_ONCE, StepMaps, TokenBook
from keel.errors import ModelMismatchError

_KEPT = 4096
"""Answers that have ended and whose sums nobody has taken yet, as those that were aborted."""


class WatchedAnswers:
    """The watched answers of one worker, which steers so many `layers`.

    `held` is None where another pipeline stage reads them.
    """

    def __init__(
        self, held: SteeredLayer | None, book: TokenBook, device: torch.device, layers: int
    ) -> None:
        self.held, self.book, self.layers = held, book, max(1, layers)
        self.sums_RN: Float[Tensor, "row number"] = torch.zeros(
            WATCHED_AT_ONCE + TRASH, 5, dtype=torch.float32, device=device
        )
        """Tokens; sum and sum of squares of their projections; sum over those at the beginning; how
        many steered layers moved them: see `TokenMaps.watched_TN`."""
        self.ended: dict[str, Tensor] = {}

    def watch(self, file: bytes) -> None:
        """Take projections on this direction from now on; `file` is a safetensors file of it.

        Raises ModelMismatchError for a direction of another width.
        """
        direction_D = load(file)["direction"]
        if self.held is None:
            return
        if len(direction_D) != self.held.hidden:
            raise ModelMismatchError(
                f"the alarm's direction has {len(direction_D)} numbers, but this model's residual "
                f"stream has {self.held.hidden}; use an alarm of this model"
            )
        self.held.watched_D.copy_(direction_D)

    def take(self, maps: StepMaps, shared: TokenMaps) -> None:
        """Add what the pass wrote, before the next one overwrites it."""
        if self.held is None or not maps.is_watched:
            return
        rows_T = shared.sums_row_T[: shared.filled]
        self.sums_RN.index_add_(0, rows_T, shared.watched_TN[: shared.filled])

    def end(self, requests: Iterable[str]) -> None:
        """Set aside the sums of requests that have ended, until they are asked for."""
        for request in requests:
            watched = self.book.end_watch(request)
            if watched is None:
                continue
            key, row = watched
            self.ended[key] = self.sums_RN[row].clone()
            self.sums_RN[row] = 0
            if len(self.ended) > _KEPT:
                del self.ended[next(iter(self.ended))]

    def watched_sums(self, keys: Sequence[str]) -> list[list[float] | None]:
        """The numbers from which each key's turn is judged.

        Tokens, sum, sum of squares, sum over the first 16, and the share of slots (a token at a
        layer that this worker steers) that were moved; None where unknown.
        """
        if self.held is None:
            return [None] * len(keys)
        rows = [self.ended.pop(key, None) for key in keys]
        for number, key in enumerate(keys):
            record = self.book.watched.get(key)
            if rows[number] is None and record is not None and record.watched is not None:
                rows[number] = self.sums_RN[record.watched.row]
        known = [row for row in rows if row is not None]
        numbers = iter(torch.stack(known).tolist() if known else ())
        return [None if row is None else self._shared(next(numbers)) for row in rows]

    def _shared(self, row: list[float]) -> list[float]:
        """A row with the share of slots that were moved, in place of their number."""
        return [*row[:-1], row[-1] / max(1.0, row[0]) / self.layers]


def packed_direction(direction_D: Float[Tensor, " hidden"]) -> bytes:
    """A direction as `WatchedAnswers.watch` takes it."""
    file: bytes = save({"direction": direction_D.float().contiguous().cpu()})
    return file


def key_of(arguments: Mapping[str, Any], request: str) -> str | None:
    """The key of a request that is to be watched; None for others.

    Of several answers to one prompt, the request's id begins with the answer's number.
    """
    watch = arguments.get(WATCH)
    if watch is None:
        return None
    name, count = str(watch[0]), int(watch[1])
    return answer_key(name, int(request.partition("_")[0]) if count > 1 else 0)


def answer_key(name: str, index: int) -> str:
    """The key of one of the answers to a prompt."""
    return f"{name}/{index}"
