"""Requests of one call, sent to vLLM and taken back as they finish."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from keel.engines.vllm.deployment import KEY
from keel.engines.vllm.processes import reporting_death
from keel.engines.vllm.token_book import RECORD, SCORE, SPANS, SUMS


@dataclass
class RecordedRequest:
    """One request: its tokens, and what is recorded of it."""

    index: int
    """Which of the call's prompts or conversations it is, counted from 0."""
    token_ids: list[int]
    parameters: Any
    """`vllm.SamplingParams`."""
    spans: tuple[int, ...] = ()
    """Start, stop of each recorded turn; stop −1 is open. Empty records nothing."""
    is_summed: bool = False
    is_scored: bool = False
    key: str = ""
    """Under which workers record it; given when it is submitted."""

    @property
    def rows(self) -> int:
        """Recordings that it takes."""
        return len(self.spans) // 2 or 1


class RequestQueue:
    """Keeps a vLLM engine busy, with no more requests at once than there is room to record."""

    def __init__(self, engine: Any, room: int, discard: Callable[[list[str]], None]) -> None:
        self.engine, self.room, self.discard = engine, room, discard
        self.numbers = itertools.count()

    def run(
        self,
        requests: Iterable[RecordedRequest],
        setting: str,
        on_text: Callable[[int, str], None] | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Iterator[list[tuple[RecordedRequest, Any]]]:
        """Requests with their outputs, those that one step finishes together.

        When closed early, the others are aborted. `requests` is consumed as rows come free: it may
        be long and made on the way, and go on after it has ended, while others still run.
        """
        waiting, running = iter(requests), dict[str, RecordedRequest]()
        following = next(waiting, None)
        shown: dict[str, int] = {}
        rows = 0
        try:
            while following or running:
                following = following or next(waiting, None)
                while following and (not running or rows + following.rows <= self.room):
                    rows += following.rows
                    running[self.submit(following, setting)] = following
                    following = next(waiting, None)
                if on_step is not None:
                    on_step()
                with reporting_death():
                    outputs = list(self.engine.step())
                finished = []
                for output in outputs:
                    request = running[output.request_id]
                    text, before = output.outputs[0].text, shown.get(output.request_id, 0)
                    if on_text is not None and len(text) > before:
                        on_text(request.index, text[before:])
                        shown[output.request_id] = len(text)
                    if output.finished:
                        del running[output.request_id]
                        rows -= request.rows
                        finished.append((request, output))
                if finished:
                    yield finished
        finally:
            if running:
                with reporting_death():
                    self.engine.abort_request(list(running), internal=False)
                self.discard([request.key for request in running.values() if request.key])

    def submit(self, request: RecordedRequest, setting: str) -> str:
        """Hand one request to vLLM under a setting; its number."""
        number = str(next(self.numbers))
        arguments: dict[str, Any] = {KEY: setting}
        if request.spans:
            request.key = f"r{number}"
            arguments |= {RECORD: request.key, SPANS: list(request.spans)}
            arguments |= {SUMS: int(request.is_summed), SCORE: int(request.is_scored)}
        parameters = request.parameters.clone()
        parameters.extra_args = arguments
        with reporting_death():
            self.engine.add_request(number, {"prompt_token_ids": request.token_ids}, parameters)
        return number


def reading_parameters() -> Any:
    """Sampling parameters of a request that only reads: no cached token may go unread."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=1, skip_reading_prefix_cache=True)
