"""The same user messages answered anew, uncapped and capped, each arm on its own history."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keel.drift.gauge import Gauge
from keel.engines import Completion, Engine
from keel.errors import UsageError
from keel.seeds import seed_of
from keel.steering import Firing
from keel.types import (
    AssistantAxis,
    Conversation,
    Floors,
    Message,
    Prompt,
    Replay,
    ReplayTurn,
    Sampling,
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
    on_turn: Callable[[ReplayTurn], None] | None = None,
) -> Replay:
    """Both arms' paths along the axis, recorded in the passes that generate them.

    Of the conversation only its user messages and its system message are used; its answers are
    given anew, and each arm goes on with its own. Both arms draw with the same seed at the same
    turn. A turn that an arm answers with nothing has no place on the axis: it is left out of
    `turns`, the others keep their numbers, and the replay goes on.
    Raises UsageError where nobody asks anything, NotAppliedError where the floors were ignored.
    """
    gauge = Gauge.of(engine, axis, layer=layer, floors=floors)
    start, questions = _asked(conversation)
    uncapped = _Arm(engine, gauge, start, None)
    capped = _Arm(engine, gauge, start, floors)
    turns: list[ReplayTurn] = []
    for number, question in enumerate(questions):
        turn_seed = _turn_seed(seed, number)
        free = uncapped.answer(question, sampling, turn_seed)
        held = capped.answer(question, sampling, turn_seed)
        if free is not None and held is not None:
            turns.append(ReplayTurn(question, free, held))
            if on_turn is not None:
                on_turn(turns[-1])
    return Replay(
        conversation_id=conversation.id if isinstance(conversation, Conversation) else "",
        layer=gauge.layer,
        floor=gauge.floor,
        setting=floors.name,
        turns=tuple(turns),
        firing_rate=capped.firing.rate,
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
        """The next turn's reading; None where the answer is empty. Both stay in the history."""
        asked = Conversation((*self.messages, Message("user", question)))
        done = self._generate(asked, sampling, seed)
        self.messages = asked.with_reply(done.text, done.token_ids).messages
        assert done.projections_TK is not None, "the engine did not record what was asked for"
        reading = self.gauge.reading(self.turn, done.projections_TK, done.text)
        self.turn += 1
        return reading

    def _generate(self, asked: Conversation, sampling: Sampling, seed: int) -> Completion:
        answers = self.engine.generate(
            [Prompt(f"replay/{self.turn}", asked)],
            sampling,
            seed=seed,
            recording=self.gauge.recording,
            interventions=self.floors,
        )
        (done,) = answers
        if answers.firing is not None:
            self.firing += answers.firing
        return done


def _asked(conversation: Conversation | Sequence[str]) -> tuple[tuple[Message, ...], list[str]]:
    """The system message, if there is one, and the user messages."""
    if not isinstance(conversation, Conversation):
        conversation = _of_questions(conversation)
    system = tuple(m for m in conversation.messages if m.speaker == "system")
    questions = [m.content for m in conversation.messages if m.speaker == "user"]
    if not questions:
        raise UsageError(
            f"conversation {conversation.id!r} has no user message, expected at least one to "
            "answer; add what is asked"
        )
    return system, questions


def _of_questions(questions: Sequence[str]) -> Conversation:
    if isinstance(questions, str):
        raise UsageError(f"user messages are one text, {questions[:40]!r}; pass a list of texts")
    return Conversation(tuple(Message("user", question) for question in questions))


def _turn_seed(seed: int, turn: int) -> int:
    """A seed of its own for every turn, below 2^63 as torch wants it."""
    return seed_of(seed, f"turn {turn}", separator="/", bits=63)
