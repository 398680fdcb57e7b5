"""Judges a conversation's turn by the alarm, and counts verdicts. Knows no HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.alarm import Alarm, State, advance
from keel.engines.vllm import AnswerSums, Series
from keel.errors import CorruptArtifactError
from keel.serve.conversations import ConversationStore, MessageTurn, Namer
from keel.serve.drift_series import (
    EVIDENCE_BOUNDS,
    GAPS_BOUNDS,
    bound_of,
    counter_name,
    drift_series,
)

Listener = Callable[[Mapping[str, Any]], None]
"""Takes what is said of a turn; must not block, nor raise."""


@dataclass(frozen=True)
class ServedTurn:
    """One answer that has ended."""

    turn: MessageTurn
    text: str
    """Goes into the hash of the messages that the next turn stands under, and nowhere else."""
    setting: str
    sums: AnswerSums
    sender: str
    """Keeps the conversations of clients apart."""
    response_id: str | None = None
    """By which the client may go on."""


@dataclass(frozen=True)
class Watcher:
    """An alarm with the conversations that it watches."""

    alarm: Alarm
    store: ConversationStore
    namer: Namer
    listeners: Sequence[Listener] = ()
    rate: float | None = None
    """Chance that a default conversation ever alarms; None for the alarm's own."""

    def judge(self, turn: ServedTurn) -> dict[str, Any]:
        """What is said of an answer: its setting, level in gaps, evidence, state, since, firing."""
        past = self._past(turn.turn)
        sums = turn.sums
        after, verdict = advance(
            self.alarm, past or State(), sums.mean, sums.tokens, rate=self.rate
        )
        gaps = verdict.gaps if verdict.gaps is not None else math.nan
        counts = {
            counter_name("turns", turn.setting, verdict.state): 1.0,
            counter_name("gaps", bound_of(gaps, GAPS_BOUNDS)): 1.0,
            "gaps_sum": gaps,
            counter_name("evidence", bound_of(verdict.evidence, EVIDENCE_BOUNDS)): 1.0,
            "evidence_sum": verdict.evidence,
        }
        if verdict.is_new:
            counts[counter_name("alarms", turn.setting)] = 1.0
        if past is None and turn.turn.key is not None and turn.turn.id is None:
            counts["misses"] = 1.0
        if past is None:
            counts["conversations"] = 1.0
        packed = after.to_bytes()
        key = self.namer.after(turn.turn, turn.text, turn.sender)
        if not self.store.put(key, packed, counts):
            self.unread("not kept")
        if turn.response_id is not None:
            self.store.put(self.namer.of_id(turn.response_id, turn.sender), packed)
        said = {
            "setting": turn.setting,
            "gaps": round(gaps, 4),
            "evidence": round(verdict.evidence, 4),
            "state": verdict.state,
            "since": None if verdict.since is None else verdict.since + 1,
            "firing": round(sums.firing, 4),
        }
        for listen in self.listeners:
            listen({**said, "turn": verdict.turn + 1, "is_new_alarm": verdict.is_new})
        return said

    def has_alarmed(self, turn: MessageTurn) -> bool:
        """Whether the conversation that a turn goes on with has raised an alarm before."""
        past = self._past(turn)
        return past is not None and past.alarmed_at >= 0

    def unread(self, reason: str) -> None:
        """Count an answer that could not be judged."""
        self.store.count({counter_name("unread", reason): 1.0})

    def _past(self, turn: MessageTurn) -> State | None:
        """The conversation so far; None where it begins, or is known no more."""
        packed = None if turn.key is None else self.store.get(turn.key)
        try:
            return None if packed is None else State.from_bytes(packed)
        except CorruptArtifactError:
            return None

    def series(self, model: str) -> list[Series]:
        """What `/metrics` says of the conversations."""
        rate = self.rate or self.alarm.rate
        return drift_series(model, self.store.counts(), self.store.size, self.alarm, rate)
