"""Conversations by id, each with its state, and the verdicts of their turns."""

from __future__ import annotations

from collections.abc import Mapping

from keel.alarm.evidence import State, advance, provisional
from keel.alarm.value import Alarm, TurnVerdict


class Monitor:
    """Watches conversations: a turn in, a verdict out. Holds no model and no text."""

    def __init__(self, alarm: Alarm, *, rate: float | None = None) -> None:
        alarm.threshold(rate)
        self.alarm, self.rate = alarm, rate
        self._states: dict[str, State] = {}

    def __len__(self) -> int:
        return len(self._states)

    def turn(self, conversation_id: str, *, mean: float, tokens: int) -> TurnVerdict:
        """The verdict of a conversation's next turn: its mean raw projection, its content tokens.

        Raises NotFiniteError for a mean that is NaN or Inf; the conversation stays as it was.
        """
        state = self._states.get(conversation_id, State())
        self._states[conversation_id], verdict = advance(
            self.alarm, state, mean, tokens, rate=self.rate
        )
        return verdict

    def provisional(self, conversation_id: str, *, mean: float, tokens: int) -> TurnVerdict:
        """The verdict of the tokens so far of a turn that is not finished."""
        state = self._states.get(conversation_id, State())
        return provisional(self.alarm, state, mean, tokens, rate=self.rate)

    def forget(self, conversation_id: str) -> None:
        """Drop a conversation; its next turn is its first."""
        self._states.pop(conversation_id, None)

    def state(self) -> dict[str, bytes]:
        """All conversations' states by id, to be kept and restored."""
        return {name: state.to_bytes() for name, state in self._states.items()}

    def state_of(self, conversation_id: str) -> bytes:
        """A watched conversation's state. Raises KeyError for one that has had no turn."""
        return self._states[conversation_id].to_bytes()

    def restore(self, states: Mapping[str, bytes]) -> None:
        """Go on with states that were kept. Raises CorruptArtifactError where one is damaged."""
        restored = {name: State.from_bytes(packed) for name, packed in states.items()}
        self._states = restored
