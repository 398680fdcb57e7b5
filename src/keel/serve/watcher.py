"""Judges a conversation's turn by the alarm, and counts verdicts. Knows no HTTP."""

from __future__ import annotations

import math
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keel.alarm import Alarm, State, advance, provisional
from keel.engines.vllm import AnswerSums, FaultLog, Series
from keel.errors import CorruptArtifactError
from keel.serve.conversations import ConversationStore, MessageTurn, Namer
from keel.serve.drift_series import (
    EVIDENCE_BOUNDS,
    GAPS_BOUNDS,
    NOT_KEPT,
    bound_of,
    counter_name,
    drift_series,
    of_few_settings,
)
from keel.serve.recent import RecentTurns

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
class KeptConversation:
    """What is kept of a conversation from turn to turn."""

    state: State = field(default_factory=State)
    entry: int | None = None
    """Its entry among the latest alarmed; None before it has alarmed."""
    gaps: tuple[float, ...] = ()
    """Level of its last turns, to three digits."""
    is_foreign: bool = False
    """Whether its system prompt is not the calibrated one."""

    def to_bytes(self) -> bytes:
        """A compact form: that of the state, and 10 bytes and 2 for each turn up to the 32nd."""
        levels = struct.pack(f"<{len(self.gaps)}e", *self.gaps)
        head = _HEAD.pack(self.entry or 0, self.is_foreign, len(self.gaps))
        return head + levels + self.state.to_bytes()

    @classmethod
    def from_bytes(cls, packed: bytes) -> KeptConversation:
        """The conversation of `to_bytes`. Raises CorruptArtifactError where the bytes are none."""
        try:
            entry, is_foreign, count = _HEAD.unpack_from(packed)
            gaps = struct.unpack_from(f"<{count}e", packed, _HEAD.size)
        except struct.error as error:
            raise CorruptArtifactError(
                f"{len(packed)} bytes are no conversation: {error}; start it anew"
            ) from error
        state = State.from_bytes(packed[_HEAD.size + 2 * count :])
        return cls(state, entry or None, gaps, is_foreign)

    def after(self, state: State, gaps: float) -> KeptConversation:
        """The conversation with one more turn."""
        level = max(-_LARGEST, min(_LARGEST, gaps))
        levels = (*self.gaps, level)[-_KEPT_TURNS:]
        return replace(self, state=state, gaps=levels, is_foreign=False)


_HEAD, _KEPT_TURNS, _LARGEST = struct.Struct("<q?B"), 32, 60_000.0
NOT_WRITTEN, UNJUDGED, UNJUDGED_EARLY, NOT_LOOKED_UP, NOT_COUNTED, DAMAGED = (
    "NOT watching, turns cannot be kept",
    "a turn stays unread",
    "an answer is not judged before its end",
    "a turn goes on as if its conversation had not alarmed",
    "/metrics lacks what is watched",
    "a conversation begins anew, as its state is damaged",
)
"""Kinds of faults."""
FOREIGN_SYSTEM = "the system prompt is not the calibrated one"


@dataclass(frozen=True)
class Watcher:
    """An alarm with the conversations that it watches."""

    alarm: Alarm
    store: ConversationStore
    namer: Namer
    listeners: Sequence[Listener] = ()
    rate: float | None = None
    """Chance that a default conversation ever alarms; None for the alarm's own."""
    unkept: Counter[str] = field(default_factory=Counter)
    """What was counted while nothing could be written."""
    faults: FaultLog = field(default_factory=FaultLog)

    def judge(self, turn: ServedTurn) -> dict[str, Any]:
        """The verdict on an answer: its setting, level in gaps, evidence, state, since, firing.

        Under another system prompt than the calibrated it is `foreign`, with the `reason`, and no
        evidence for anything.
        """
        past = self._past(turn.turn)
        before = past or KeptConversation()
        if self._is_foreign(turn.turn, before):
            return self._foreign(turn, before)
        state, verdict = advance(
            self.alarm, before.state, turn.sums.mean, turn.sums.tokens, rate=self.rate
        )
        gaps = verdict.gaps if verdict.gaps is not None else math.nan
        said = {
            "setting": turn.setting,
            "gaps": round(gaps, 4),
            "evidence": round(verdict.evidence, 4),
            "state": verdict.state,
            "since": None if verdict.since is None else verdict.since + 1,
            "firing": round(turn.sums.firing, 4),
        }
        counts = {
            counter_name("turns", turn.setting, verdict.state): 1.0,
            counter_name("gaps", bound_of(gaps, GAPS_BOUNDS)): 1.0,
            "gaps_sum": gaps,
            counter_name("evidence", bound_of(verdict.evidence, EVIDENCE_BOUNDS)): 1.0,
            "evidence_sum": verdict.evidence,
        }
        if verdict.is_new:
            counts["alarms"] = 1.0
        if past is None and turn.turn.key is not None and turn.turn.id is None:
            counts["misses"] = 1.0
        cut = self._kept(turn.turn.cut_key)
        is_first = not before.gaps and not (cut and cut.gaps)
        if is_first:
            counts["conversations"] = 1.0
        after = before.after(state, gaps)
        self.tell({**said, "turn": verdict.turn + 1, "is_new_alarm": verdict.is_new})

        def keep() -> None:
            begun, alarms = float(is_first), float(verdict.is_new)
            self.store.recent.count(turns=1.0, gaps=gaps, begun=begun, alarms=alarms)
            self._keep(turn, _shown(self.store.recent, after, said))

        self._write(counts, keep)
        return said

    def _is_foreign(self, turn: MessageTurn, past: KeptConversation) -> bool:
        if turn.has_past and turn.system is None:
            return past.is_foreign
        return not self.alarm.fits_system(turn.system)

    def _foreign(self, turn: ServedTurn, before: KeptConversation) -> dict[str, Any]:
        gaps = self.alarm.in_gaps(turn.sums.mean)
        said = {
            "setting": turn.setting,
            "gaps": round(gaps, 4),
            "evidence": None,
            "state": "foreign",
            "reason": FOREIGN_SYSTEM,
            "since": None,
            "firing": round(turn.sums.firing, 4),
        }
        self.tell({**said, "turn": before.state.turns + 1, "is_new_alarm": False})
        state = replace(before.state, turns=before.state.turns + 1)
        after = replace(before, state=state, is_foreign=True)
        counts = {counter_name("turns", turn.setting, "foreign"): 1.0}
        self._write(counts, lambda: self._keep(turn, after))
        return said

    def provisional(self, turn: ServedTurn) -> dict[str, Any] | None:
        """The verdict on an unfinished answer; None where it is not due yet."""
        past = self._past(turn.turn) or KeptConversation()
        if self._is_foreign(turn.turn, past) or not turn.sums.tokens:
            return None
        verdict = provisional(
            self.alarm, past.state, turn.sums.mean, turn.sums.tokens, rate=self.rate
        )
        return {
            "setting": turn.setting,
            "gaps": None if verdict.gaps is None else round(verdict.gaps, 4),
            "evidence": round(verdict.evidence, 4),
            "state": verdict.state,
            "since": None if verdict.since is None else verdict.since + 1,
            "provisional": turn.sums.tokens,
        }

    def tell(self, event: Mapping[str, Any]) -> None:
        """Pass a verdict, or an action on a turn, to every listener."""
        for listen in self.listeners:
            listen(event)

    def _keep(self, turn: ServedTurn, kept: KeptConversation) -> None:
        packed = kept.to_bytes()
        self.store.put(self.namer.after(turn.turn, turn.text, turn.sender), packed)
        if turn.response_id is not None:
            self.store.put(self.namer.of_id(turn.response_id, turn.sender), packed)
        self.store.recent.use(turn.setting, self.namer.of_id("", turn.sender))

    def _write(self, counts: Mapping[str, float], keep: Callable[[], None]) -> None:
        """Count and `keep` all of it, or count what could not be kept.

        An answer never fails with a disk.
        """
        try:
            with self.store.writing():
                adding = of_few_settings({**counts, **self.unkept}, self.store.counts())
                self.store.count(adding)
                keep()
            self.unkept.clear()
        except sqlite3.Error as error:
            self.unkept[counter_name("unread", NOT_KEPT)] += 1
            self.faults.note(NOT_WRITTEN, error)

    def has_alarmed(self, turn: MessageTurn) -> bool:
        """Whether the conversation that a turn goes on with has raised an alarm before."""
        past = self._past(turn)
        return past is not None and past.state.alarmed_at >= 0

    def unread(self, reason: str, turn: ServedTurn | None = None, *, is_turn: bool = True) -> None:
        """Count an answer that could not be judged.

        Its conversation goes on as it stood, one turn later. So does one that begins with it: its
        next answer is held against the level of second turns. An answer that calls a tool
        `is_turn` no more than it is in transcripts, where it belongs to the answer that follows.
        """

        def keep() -> None:
            self.store.recent.count(unread=1.0)
            if turn is not None:
                past = self._past(turn.turn) or KeptConversation()
                state = replace(past.state, turns=past.state.turns + is_turn)
                is_foreign = self._is_foreign(turn.turn, past)
                self._keep(turn, replace(past, state=state, is_foreign=is_foreign))

        self._write({counter_name("unread", reason): 1.0}, keep)

    def _past(self, turn: MessageTurn) -> KeptConversation | None:
        """The conversation so far; None where it begins, or is known no more.

        Before an answer that is continued it stands as before that answer's beginning, but where
        the beginning has raised an alarm: that stays.
        """
        cut = self._kept(turn.cut_key)
        if cut is not None and cut.state.alarmed_at >= 0:
            return replace(cut, state=replace(cut.state, turns=cut.state.turns - 1))
        return self._kept(turn.key)

    def _kept(self, key: bytes | None) -> KeptConversation | None:
        packed = None if key is None else self.store.get(key)
        try:
            return None if packed is None else KeptConversation.from_bytes(packed)
        except CorruptArtifactError as error:
            self.faults.note(DAMAGED, error)
            return None

    def series(self, model: str) -> list[Series]:
        """What `/metrics` says of the conversations."""
        rate = self.rate or self.alarm.rate
        counts = Counter(self.store.counts())
        counts.update(self.unkept)
        return drift_series(model, counts, self.store.size, self.alarm, rate)

    def recent(self) -> dict[str, Any]:
        """What the page shows of the last hour."""
        recent = self.store.recent
        return {
            "rate": self.rate or self.alarm.rate,
            "threshold": self.alarm.threshold(self.rate),
            "expected": self.alarm.expected,
            "unkept": self.unkept.total(),
            "minutes": recent.minutes(),
            "clients": recent.clients(),
            "alarmed": list(recent.alarmed()),
        }


def _shown(
    recent: RecentTurns, kept: KeptConversation, said: Mapping[str, Any]
) -> KeptConversation:
    """The conversation with its entry among the latest alarmed, where it has alarmed."""
    if kept.state.alarmed_at < 0:
        return kept
    shown = {name: said[name] for name in ("setting", "evidence", "since")}
    shown |= {"turns": kept.state.turns, "gaps": [round(level, 3) for level in kept.gaps]}
    return replace(kept, entry=recent.show(kept.entry, shown))
