"""Requests of one call, sent to vLLM and taken back as they finish."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from keel.engines.vllm.deployment import KEY
from keel.engines.vllm.ledger import RECORD, SCORE, SPANS, SUMS
from keel.engines.vllm.watch import living


class Asked:
    """One request: what it holds and what is recorded of it."""

    def __init__(
        self,
        index: int,
        token_ids: list[int],
        parameters: Any,
        spans: tuple[int, ...],
        *,
        is_summed: bool = False,
        is_scored: bool = False,
    ) -> None:
        self.index, self.token_ids, self.parameters = index, token_ids, parameters
        self.spans, self.is_summed, self.is_scored = spans, is_summed, is_scored
        self.key = ""

    @property
    def rows(self) -> int:
        """Recordings that it takes."""
        return len(self.spans) // 2 or 1


def reading() -> Any:
    """Parameters of a request that only reads: no cached token may go unread."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=1, skip_reading_prefix_cache=True)


class Queue:
    """Keeps a vLLM engine busy, with no more at once than there is room to record."""

    def __init__(self, engine: Any, room: int, discard: Callable[[list[str]], None]) -> None:
        self.engine, self.room, self.discard = engine, room, discard
        self.numbers = itertools.count()

    def run(
        self,
        asked: Iterable[Asked],
        setting: str,
        on_text: Callable[[int, str], None] | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Iterator[tuple[Asked, Any]]:
        """Requests with their outputs, as they finish; those not waited for are aborted.

        `asked` is drawn on as room is found: it may be long, and its tokens made meanwhile.
        """
        waiting, running = iter(asked), dict[str, Asked]()
        following = next(waiting, None)
        shown: dict[str, int] = {}
        rows = 0
        try:
            while following or running:
                while following and (not running or rows + following.rows <= self.room):
                    rows += following.rows
                    running[self.submit(following, setting)] = following
                    following = next(waiting, None)
                if on_step is not None:
                    on_step()
                for output in self._step():
                    one = running[output.request_id]
                    if on_text is not None:
                        _tell(on_text, one.index, output, shown)
                    if output.finished:
                        del running[output.request_id]
                        rows -= one.rows
                        yield one, output
        finally:
            if running:
                with living():
                    self.engine.abort_request(list(running), internal=False)
                self.discard([one.key for one in running.values() if one.key])

    def _step(self) -> list[Any]:
        with living():
            return list(self.engine.step())

    def submit(self, one: Asked, setting: str) -> str:
        """Hand one request to vLLM under a setting; its number."""
        number = str(next(self.numbers))
        arguments: dict[str, Any] = {KEY: setting}
        if one.spans:
            one.key = f"r{number}"
            arguments |= {RECORD: one.key, SPANS: list(one.spans)}
            arguments |= {SUMS: int(one.is_summed), SCORE: int(one.is_scored)}
        parameters = one.parameters.clone()
        parameters.extra_args = arguments
        with living():
            self.engine.add_request(number, {"prompt_token_ids": one.token_ids}, parameters)
        return number


def _tell(
    on_text: Callable[[int, str], None], index: int, output: Any, shown: dict[str, int]
) -> None:
    text = output.outputs[0].text
    before = shown.get(output.request_id, 0)
    if len(text) > before:
        on_text(index, text[before:])
        shown[output.request_id] = len(text)
