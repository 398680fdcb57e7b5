"""Maps each token of a forward pass to its request, its setting and its recording.

Knows no vLLM, no model. Tokens are identified by request and position in the conversation, never
by prompt length: a prompt may be computed in chunks, come from the prefix cache in part, or be
computed twice after a preemption, and what was counted once is not counted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from keel.engines.vllm.deployment import Deployment
from keel.errors import UsageError

RECORD = "keel_record"
"""Request argument: the key under which turns are recorded."""
SPANS = "keel_spans"
"""Request argument: flat list of start, stop of each recorded turn; stop −1 is open."""
SCORE = "keel_score"
"""Request argument: 1 keeps what predicts each recorded token, for likelihoods and divergences."""
SUMS = "keel_sums"
"""Request argument: 0 keeps no sums of the recorded tokens, and needs no row for them."""

WATCH = "keel_watch"
"""Request argument: [key, how many answers are to be sampled] of what is watched for an alarm."""
WATCHED_AT_ONCE = 4096
"""Answers that can be in work and watched at once; others are answered unread."""
EARLY = 16
"""Tokens at the beginning of a watched answer that are summed by themselves, too."""

TRASH = 8
"""Spare rows that take the sums of unrecorded tokens; several, so that they collide less."""


@dataclass
class RecordedSpan:
    """One recorded stretch of a request's positions."""

    start: int
    stop: int
    """First position past it; −1 while it is open."""
    row: int
    """Recording that takes its sums; −1 where none are kept."""
    counted: int
    """First position that may still be counted."""
    tokens: int = 0
    """Positions counted so far: those that were computed, not those that a cache skipped."""

    def fresh(self, start: int, stop: int) -> tuple[int, int]:
        """Positions of [start, stop) that belong here and were not counted; marks them so."""
        first = max(start, self.counted)
        last = stop if self.stop < 0 else min(stop, self.stop)
        if last > first:
            self.counted = last
            self.tokens += last - first
        return first, max(first, last)

    @property
    def predictions(self) -> int:
        """Number of recorded tokens that have a preceding token, hence a prediction."""
        return max(0, self.stop - max(self.start, 1))


@dataclass
class RequestRecord:
    """Setting and recorded spans of one request."""

    slot: int
    """Slot of its setting; 0 for none."""
    prompt_ids: Sequence[int]
    key: str | None = None
    spans: list[RecordedSpan] = field(default_factory=list)
    scores: bool = False
    scored: int = 0
    """First position whose prediction is not yet kept."""
    sums: bool = False
    """Whether sums of the recorded tokens are wanted."""
    ends: int = 0
    """Which of the book's sets of tokens ends its answer."""
    watch_key: str | None = None
    """Key under which its answer is watched for an alarm."""
    watched: RecordedSpan | None = None
    """The answer's positions, where it is watched."""

    @cached_property  # fixed once the spans are known, and needed at every step
    def is_given(self) -> bool:
        """Whether the recorded spans lie in the prompt, and nothing is to be sampled."""
        return bool(self.spans) and all(span.stop >= 0 for span in self.spans)

    @cached_property
    def is_answer(self) -> bool:
        """Whether an answer is sampled, and of its prompt nothing is kept."""
        return not self.is_given and not self.scores

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.prompt_ids)


@dataclass
class StepMaps:
    """The maps of one step, a number per token, and where recorded tokens lie in it."""

    maps_5T: Int[ndarray, "map token"]
    """Phase, row of the sums, row of the tally, set of ends, early: see `layers.TokenMaps`."""
    taken: list[tuple[str, int, int, int]]
    """(key, span, first and last row + 1 in the step) of recorded stretches."""
    predicting: list[tuple[str, int, int]]
    """(key, first row, how many) whose output predicts a recorded token."""
    is_watched: bool = False
    """Whether some token belongs to a watched answer."""
    is_crowded: bool = False
    """Whether some recording takes the sums of several tokens of this step: a turn that is read,
    not one that is being sampled."""
    phase_T: Int[ndarray, " token"] = field(init=False)
    """2·setting + (1 if the token was generated)."""
    sums_row_T: Int[ndarray, " token"] = field(init=False)
    """Recording that the token counts towards."""
    tally_row_T: Int[ndarray, " token"] = field(init=False)
    """Setting in whose firing the token is counted."""
    ends_T: Int[ndarray, " token"] = field(init=False)
    """Set of tokens of which it must be none to be counted; 0 is the empty one."""
    early_T: Int[ndarray, " token"] = field(init=False)
    """1 for a token at the beginning of a watched answer."""

    def __post_init__(self) -> None:
        self.phase_T, self.sums_row_T, self.tally_row_T, self.ends_T, self.early_T = self.maps_5T


class TokenBook:
    """Requests in flight, what is recorded of them, and the free rows of the sums."""

    def __init__(self, recordings: int) -> None:
        self.recordings = recordings
        self.free = list(range(recordings))
        self.requests: dict[str, RequestRecord] = {}
        self.by_key: dict[str, RequestRecord] = {}
        self.watched: dict[str, RequestRecord] = {}
        """Requests whose answers are watched, by key."""
        self.tallied: dict[int, int] = {}
        """Tokens counted per setting: what every layer must have seen."""
        self.sparing: set[int] = set()
        """Slots of settings that leave a request's first token alone."""
        self.ends: dict[frozenset[int], int] = {frozenset(): 0}
        """Sets of tokens that end answers, numbered as they came."""

    def admit(
        self,
        request: str,
        slot: int,
        prompt_ids: Sequence[int],
        arguments: Mapping[str, Any],
        ends: Iterable[int] = (),
        watch_key: str | None = None,
    ) -> None:
        """Note a new request; a known one was preempted and keeps its record.

        `ends` are tokens that end its answer, which is watched under `watch_key` where there is
        room. Raises UsageError for a recording key in use, odd
        spans, or too few free rows.
        """
        if request in self.requests:
            return
        number = self.ends.setdefault(frozenset(ends), len(self.ends))
        record = RequestRecord(slot, prompt_ids, ends=number)
        if arguments.get(RECORD) is not None:
            self._open(str(arguments[RECORD]), record, arguments)
        elif watch_key is not None and self.free:
            record.watch_key = watch_key
            start = record.prompt_tokens
            record.watched = RecordedSpan(start, -1, self.free.pop(), start)
            self.watched[watch_key] = record
        self.requests[request] = record

    def forget(self, requests: Iterable[str]) -> None:
        """Forget requests that have ended; their recordings stay until they are collected."""
        for request in requests:
            self.requests.pop(request, None)

    def end_watch(self, request: str) -> tuple[str, int] | None:
        """Key and row of a request whose answer was watched until now; the row is free again."""
        record = self.requests.get(request)
        if record is None or record.watched is None or record.watch_key is None:
            return None
        key, row = record.watch_key, record.watched.row
        record.watched = None
        del self.watched[key]
        self.free.append(row)
        return key, row

    def close(self, key: str) -> RequestRecord:
        """The record under a key, which is forgotten; its rows are free again.

        Raises UsageError where nothing is recorded under it.
        """
        record = self.recorded(key)
        del self.by_key[key]
        self.free.extend(span.row for span in record.spans if span.row >= 0)
        return record

    def recorded(self, key: str) -> RequestRecord:
        """The record under a key. Raises UsageError where there is none."""
        if key not in self.by_key:
            raise UsageError(f"nothing is recorded under {key!r}: not asked for, or collected")
        return self.by_key[key]

    def step_maps(
        self, requests: Sequence[str], starts: Sequence[int], counts: Sequence[int]
    ) -> StepMaps:
        """The maps of a step that computes `counts` tokens of each request from `starts` on."""
        total = int(sum(counts))
        maps = StepMaps(idle_maps(total, self.recordings), [], [])
        row, columns, numbers = 0, [], []
        for request, start, count in zip(requests, starts, counts, strict=True):
            record = self.requests.get(request)
            if record is not None and count == 1 and record.is_answer and start > 0:
                columns.append(row)
                numbers.append(self._next_token(maps, record, row, int(start)))
            elif record is not None:
                self._fill(maps, record, row, int(start), int(count))
            row += int(count)
        if columns:
            maps.maps_5T[:, columns] = np.array(numbers).T
        return maps

    def _open(self, key: str, record: RequestRecord, arguments: Mapping[str, Any]) -> None:
        if key in self.by_key:
            raise UsageError(f"recording {key!r} is there already; give each its own {RECORD}")
        edges = [int(n) for n in arguments.get(SPANS, (record.prompt_tokens, -1))]
        if len(edges) % 2:
            raise UsageError(f"{SPANS} has {len(edges)} numbers, expected start, stop of each turn")
        record.key, record.scores = key, bool(arguments.get(SCORE, 0))
        record.sums = self.recordings > 0 and bool(arguments.get(SUMS, 1))
        # An answer's tokens are counted in its row, too: see `TokenMaps.leave_out_ends`.
        needs = record.sums or (self.recordings > 0 and -1 in edges[1::2])
        if needs and len(edges) // 2 > len(self.free):
            raise UsageError(
                f"{len(edges) // 2} turns to record and {len(self.free)} of {self.recordings} "
                "rows free; start the engine with more recordings"
            )
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            row = self.free.pop() if needs else -1
            record.spans.append(RecordedSpan(start, stop, row, start))
        self.by_key[key] = record

    def _fill(
        self, maps: StepMaps, record: RequestRecord, row: int, start: int, count: int
    ) -> None:
        """Fill the maps' rows [row, row + count) for a request's positions from `start` on."""
        _mark_phases(maps.phase_T[row : row + count], record, start)
        if start == 0 and record.slot in self.sparing:
            maps.phase_T[row : row + 1] = 0
        if record.watched is not None:
            first, last = record.watched.fresh(start, start + count)
            maps.sums_row_T[row + first - start : row + last - start] = record.watched.row
            early = min(last, record.watched.start + EARLY)
            maps.early_T[row + first - start : row + max(first, early) - start] = 1
            maps.is_watched |= last > first
        if not record.is_given:
            maps.ends_T[row + max(0, record.prompt_tokens - start) : row + count] = record.ends
        # A collected recording's rows may belong to another by now.
        if record.key is None or self.by_key.get(record.key) is not record:
            self._tally(maps, record, row, row + count)
            return
        if record.scores:  # rows whose output predicts a recorded token, each position once
            for span in record.spans:
                first = max(start, span.start - 1, record.scored)
                last = min(start + count, span.stop - 1)
                if last > first:
                    maps.predicting.append((record.key, row + first - start, last - first))
                    record.scored = last
        if not record.is_given:  # an answer in the making: its prompt is steered, too
            self._tally(maps, record, row, row + count)
        for number, span in enumerate(record.spans):
            first, last = span.fresh(start, start + count)
            if last > first:
                begin, end = row + first - start, row + last - start
                if span.row >= 0:
                    maps.sums_row_T[begin:end] = span.row
                    maps.is_crowded |= end - begin > 1
                maps.taken.append((record.key, number, begin, end))
                if record.is_given:
                    self._tally(maps, record, begin, end)

    def _next_token(
        self, maps: StepMaps, record: RequestRecord, row: int, start: int
    ) -> tuple[int, int, int, int, int]:
        """What the maps say of one token of an answer, as `_fill` has it: most steps are these."""
        is_sampled = start >= len(record.prompt_ids)
        sums_row, is_early = self.recordings + row % TRASH, False
        if record.watched is not None:
            first, last = record.watched.fresh(start, start + 1)
            if last > first:
                sums_row, maps.is_watched = record.watched.row, True
                is_early = start < record.watched.start + EARLY
        if record.key is not None and self.by_key.get(record.key) is record:
            for number, span in enumerate(record.spans):
                first, last = span.fresh(start, start + 1)
                if last > first:
                    sums_row = span.row if span.row >= 0 else sums_row
                    maps.taken.append((record.key, number, row, row + 1))
        if record.slot:
            self.tallied[record.slot] = self.tallied.get(record.slot, 0) + 1
        phase = 2 * record.slot + is_sampled if record.slot else 0
        return phase, sums_row, record.slot, record.ends if is_sampled else 0, int(is_early)

    def _tally(self, maps: StepMaps, record: RequestRecord, begin: int, end: int) -> None:
        if record.slot and end > begin:
            maps.tally_row_T[begin:end] = record.slot
            self.tallied[record.slot] = self.tallied.get(record.slot, 0) + end - begin


def rows_of(deployment: Deployment) -> int:
    """Recordings, or watched answers, that an engine can have at once."""
    return deployment.recordings if deployment.watched_layer is None else WATCHED_AT_ONCE


def idle_maps(tokens: int, recordings: int) -> Int[ndarray, "map token"]:
    """Maps that do nothing: no setting, sums in spare rows, no tally, no ends, none early."""
    maps_5T = np.zeros((5, tokens), dtype=np.int64)
    maps_5T[1] = recordings + np.arange(tokens) % TRASH
    return maps_5T


def _mark_phases(phase_T: ndarray, record: RequestRecord, start: int) -> None:
    """2·setting for a prompt's tokens, one more for tokens that the model sampled."""
    if not record.slot:
        return
    phase_T[:] = 2 * record.slot
    sampled = (
        [(span.start, span.stop) for span in record.spans]
        if record.is_given
        else [(record.prompt_tokens, start + len(phase_T))]
    )
    for first, last in sampled:
        phase_T[max(0, first - start) : max(0, last - start)] = 2 * record.slot + 1
