"""Replays a conversation's user messages uncapped and capped, each arm with its own history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from keel.drift.gauge import Gauge
from keel.engines import Engine
from keel.errors import UsageError
from keel.seeds import seed_of
from keel.steering import Firing
from keel.types import (
    AssistantAxis,
    Conversation,
    DefaultAnswers,
    Floors,
    Message,
    Prompt,
    Replay,
    ReplayTurn,
    Sampling,
    TurnLevels,
    TurnReading,
)


def replay(
    engine: Engine,
    conversation: Conversation | Sequence[str],
    axis: AssistantAxis,
    *,
    floors: Floors,
    sampling: Sampling,
    seed: int,
    layer: int | None = None,
    default_answers: DefaultAnswers | None = None,
    levels: TurnLevels | None = None,
    false_alarms: float = 0.05,
    on_turn: Callable[[ReplayTurn], None] | None = None,
) -> Replay:
    """Answer the same user messages uncapped and capped; both arms' turn-by-turn projections.

    Only the user messages and the system message of the conversation are used; its answers are
    generated anew, and each arm continues its own history. Both arms draw with the same seed at
    the same turn. A turn to which an arm gives an empty answer has no projection: it is listed as
    `unread`, the others keep their numbers, and the replay continues.
    Raises UsageError for a conversation without a user message, NotAppliedError where the floors
    did not reach the model.
    """
    gauge = Gauge.of(
        engine,
        axis,
        layer=layer,
        floors=floors,
        default_answers=default_answers,
        levels=levels,
        false_alarms=false_alarms,
    )
    script = _user_messages(conversation)
    if gauge.levels is not None and not gauge.levels.fits_system(script.system):
        gauge = replace(gauge, levels=None)
    system = tuple(m for m in script.messages if m.speaker == "system")
    uncapped = _Arm(engine, gauge, system, None)
    capped = _Arm(engine, gauge, system, floors)
    turns: list[ReplayTurn] = []
    unread: list[int] = []
    for number, message in enumerate(m for m in script.messages if m.speaker == "user"):
        turn_seed = _turn_seed(seed, number)
        without_floors = uncapped.answer(message.content, sampling, turn_seed)
        with_floors = capped.answer(message.content, sampling, turn_seed)
        if without_floors is None or with_floors is None:
            unread.append(number)
            continue
        turns.append(ReplayTurn(message.content, without_floors, with_floors))
        if on_turn is not None:
            on_turn(turns[-1])
    return Replay(
        conversation_id=script.id,
        layer=gauge.layer,
        floor=gauge.floor,
        setting=floors.name,
        turns=tuple(turns),
        firing_rate=capped.firing.rate,
        false_alarms=gauge.stated_false_alarms,
        unread=tuple(unread),
    )


class _Arm:
    """One of the two conversations as it grows."""

    def __init__(
        self, engine: Engine, gauge: Gauge, start: tuple[Message, ...], floors: Floors | None
    ) -> None:
        self.engine, self.gauge = engine, gauge
        self.messages = start
        self.floors = tuple(floors) if floors is not None else ()
        self.turn = 0
        self.firing = Firing({}, {})

    def answer(self, question: str, sampling: Sampling, seed: int) -> TurnReading | None:
        """The next turn's reading; None if the answer is empty. Both stay in the history."""
        conversation = Conversation((*self.messages, Message("user", question)))
        answers = self.engine.generate(
            [Prompt(f"replay/{self.turn}", conversation)],
            sampling,
            seed=seed,
            recording=self.gauge.recording,
            interventions=self.floors,
        )
        (answer,) = answers
        if answers.firing is not None:
            self.firing += answers.firing
        self.messages = conversation.with_reply(answer.text, answer.token_ids).messages
        assert answer.projections_TK is not None, "the engine recorded no projections"
        reading = self.gauge.reading(self.turn, answer.projections_TK, answer.text)
        self.turn += 1
        return None if reading is None else replace(reading, is_cut=answer.finish == "length")


def _user_messages(conversation: Conversation | Sequence[str]) -> Conversation:
    """The system message, if there is one, and the user messages."""
    if isinstance(conversation, str):
        raise UsageError(f"user messages are one text, {conversation[:40]!r}; pass a list of texts")
    if not isinstance(conversation, Conversation):
        return Conversation(tuple(Message("user", question) for question in conversation))
    kept = tuple(m for m in conversation.messages if m.speaker != "assistant")
    if all(m.speaker == "system" for m in kept):
        raise UsageError(
            f"conversation {conversation.id!r} has no user message, expected at least one to "
            "answer; add what is asked"
        )
    return Conversation(kept, conversation.id)


def _turn_seed(seed: int, turn: int) -> int:
    """Each turn's own seed, below 2^63 as torch requires."""
    return seed_of(seed, f"turn {turn}", separator="/", bits=63)
