"""Who the tokens of a step belong to, and what was recorded of them. Knows no vLLM, no model.

Tokens are told apart by request and position in the conversation, never by prompt length: a
prompt may be computed in chunks, come from the prefix cache in part, or be computed twice after a
preemption, and what was counted once is not counted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from keel.errors import UsageError

RECORD = "keel_record"
"""Request argument: the key under which turns are recorded."""
SPANS = "keel_spans"
"""Request argument: flat list of start, stop of each recorded turn; stop −1 is open."""
SCORE = "keel_score"
"""Request argument: 1 keeps what predicts each recorded token, for likelihoods and divergences."""
SUMS = "keel_sums"
"""Request argument: 0 keeps no sums of the recorded tokens, and needs no row for them."""

TRASH = 8
"""Spare rows that take the sums of tokens nobody records; several, so that they collide less."""


@dataclass
class Turn:
    """One recorded stretch of a request."""

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
        """Tokens that others stand before, and that are therefore predicted."""
        return max(0, self.stop - max(self.start, 1))


@dataclass
class Claim:
    """What is known of one request."""

    slot: int
    prompt_ids: Sequence[int]
    key: str | None = None
    turns: list[Turn] = field(default_factory=list)
    scores: bool = False
    scored: int = 0
    """First position whose prediction is not yet kept."""

    @cached_property  # once the turns are known, it is asked at every step
    def is_given(self) -> bool:
        """Whether the recorded turns stand in the prompt, and nothing is to be sampled."""
        return bool(self.turns) and all(turn.stop >= 0 for turn in self.turns)

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.prompt_ids)


@dataclass
class Rows:
    """The maps of one step, a number per token, and where recorded tokens stand in it."""

    maps_3T: Int[ndarray, "map token"]
    """Phase, row of the sums, row of the tally: see `layers.Shared`."""
    taken: list[tuple[str, int, int, int]]
    """(key, turn, first and last row + 1 in the step) of recorded stretches."""
    predicting: list[tuple[str, int, int]]
    """(key, first row, how many) whose output predicts a recorded token."""
    is_crowded: bool = False
    """Whether some recording takes the sums of several tokens of this step: a turn that is read,
    not one that is being sampled."""

    @property
    def phase_T(self) -> Int[ndarray, " token"]:
        """2·setting + (1 if the token was generated)."""
        row_T: ndarray = self.maps_3T[0]
        return row_T

    @property
    def sums_row_T(self) -> Int[ndarray, " token"]:
        """Recording that the token counts towards."""
        row_T: ndarray = self.maps_3T[1]
        return row_T

    @property
    def tally_row_T(self) -> Int[ndarray, " token"]:
        """Setting in whose firing the token is counted."""
        row_T: ndarray = self.maps_3T[2]
        return row_T


class Ledger:
    """Requests in flight and free rows."""

    def __init__(self, recordings: int) -> None:
        self.recordings = recordings
        self.free = list(range(recordings))
        self.claims: dict[str, Claim] = {}
        self.by_key: dict[str, Claim] = {}
        self.tallied: dict[int, int] = {}
        """Tokens counted per setting: what every layer must have seen."""

    def admit(
        self, request: str, slot: int, prompt_ids: Sequence[int], arguments: Mapping[str, Any]
    ) -> None:
        """Take note of a request; one that is known keeps its place (it was preempted)."""
        if request in self.claims:
            return
        claim = Claim(slot, prompt_ids)
        key = arguments.get(RECORD)
        if key is not None:
            self._open(str(key), claim, arguments)
        self.claims[request] = claim

    def forget(self, requests: Iterable[str]) -> None:
        """Requests that have ended; their recordings stay until they are collected."""
        for request in requests:
            self.claims.pop(request, None)

    def close(self, key: str) -> Claim:
        """A recording that is being collected; its rows are free again, and nobody's.

        Raises UsageError for one that is not there.
        """
        claim = self.recorded(key)
        del self.by_key[key]
        self.free.extend(turn.row for turn in claim.turns if turn.row >= 0)
        return claim

    def recorded(self, key: str) -> Claim:
        """What is recorded under a key. Raises UsageError where there is nothing."""
        if key not in self.by_key:
            raise UsageError(f"nothing is recorded under {key!r}: not asked for, or collected")
        return self.by_key[key]

    def rows(self, requests: Sequence[str], starts: Sequence[int], counts: Sequence[int]) -> Rows:
        """The maps of a step that computes `counts` tokens of each request from `starts` on."""
        total = int(sum(counts))
        rows = Rows(idle_maps(total, self.recordings), [], [])
        place = 0
        for request, start, count in zip(requests, starts, counts, strict=True):
            claim = self.claims.get(request)
            if claim is not None:
                self._fill(rows, claim, place, int(start), int(count))
            place += int(count)
        return rows

    def _open(self, key: str, claim: Claim, arguments: Mapping[str, Any]) -> None:
        if key in self.by_key:
            raise UsageError(f"recording {key!r} is there already; give each its own {RECORD}")
        spans = [int(n) for n in arguments.get(SPANS, (claim.prompt_tokens, -1))]
        if len(spans) % 2:
            raise UsageError(f"{SPANS} has {len(spans)} numbers, expected start, stop of each turn")
        claim.key, claim.scores = key, bool(arguments.get(SCORE, 0))
        needs = self.recordings > 0 and bool(arguments.get(SUMS, 1))
        if needs and len(spans) // 2 > len(self.free):
            raise UsageError(
                f"{len(spans) // 2} turns to record and {len(self.free)} of {self.recordings} "
                "rows free; start the engine with more recordings"
            )
        for start, stop in zip(spans[::2], spans[1::2], strict=True):
            row = self.free.pop() if needs else -1
            claim.turns.append(Turn(start, stop, row, start))
        self.by_key[key] = claim

    def _fill(self, rows: Rows, claim: Claim, place: int, start: int, count: int) -> None:
        _mark_phases(rows.phase_T[place : place + count], claim, start)
        # A collected recording's rows may be another's by now.
        if claim.key is None or self.by_key.get(claim.key) is not claim:
            self._tally(rows, claim, place, place + count)
            return
        if claim.scores:
            self._predict(rows, claim, place, start, count)
        if not claim.is_given:  # an answer in the making: its prompt is steered, too
            self._tally(rows, claim, place, place + count)
        for number, turn in enumerate(claim.turns):
            first, last = turn.fresh(start, start + count)
            if last > first:
                begin, end = place + first - start, place + last - start
                if turn.row >= 0:
                    rows.sums_row_T[begin:end] = turn.row
                    rows.is_crowded |= end - begin > 1
                rows.taken.append((str(claim.key), number, begin, end))
                if claim.is_given:
                    self._tally(rows, claim, begin, end)

    def _tally(self, rows: Rows, claim: Claim, begin: int, end: int) -> None:
        if claim.slot and end > begin:
            rows.tally_row_T[begin:end] = claim.slot
            self.tallied[claim.slot] = self.tallied.get(claim.slot, 0) + end - begin

    def _predict(self, rows: Rows, claim: Claim, place: int, start: int, count: int) -> None:
        """Rows whose output predicts a token of a recorded turn, each position once."""
        for turn in claim.turns:
            first = max(start, turn.start - 1, claim.scored)
            last = min(start + count, turn.stop - 1)
            if last > first:
                rows.predicting.append((str(claim.key), place + first - start, last - first))
                claim.scored = last


def idle_maps(tokens: int, recordings: int) -> Int[ndarray, "map token"]:
    """Maps that do nothing: no setting, sums that nobody collects, nobody's firing."""
    maps_3T = np.zeros((3, tokens), dtype=np.int64)
    maps_3T[1] = recordings + np.arange(tokens) % TRASH
    return maps_3T


def _mark_phases(phase_T: ndarray, claim: Claim, start: int) -> None:
    """2·setting for a prompt's tokens, one more for tokens that the model sampled."""
    if not claim.slot:
        return
    phase_T[:] = 2 * claim.slot
    sampled = (
        [(turn.start, turn.stop) for turn in claim.turns]
        if claim.is_given
        else [(claim.prompt_tokens, start + len(phase_T))]
    )
    for first, last in sampled:
        phase_T[max(0, first - start) : max(0, last - start)] = 2 * claim.slot + 1
