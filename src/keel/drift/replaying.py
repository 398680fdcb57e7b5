"""Replays a conversation's user messages uncapped and capped, each arm with its own history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from keel.drift.gauge import Gauge
from keel.engines import Engine, check_context
from keel.errors import ContextLengthError, UsageError
from keel.seeds import seed_of
from keel.statistics import Clusters, mean_interval
from keel.steering import Firing
from keel.types import (
    AssistantAxis,
    Conversation,
    DefaultAnswers,
    Floor,
    Floors,
    Message,
    Prompt,
    Replay,
    ReplayedAnswer,
    ReplayedMessage,
    ReplaySpread,
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
    draws: int = 1,
    layer: int | None = None,
    default_answers: DefaultAnswers | None = None,
    levels: TurnLevels | None = None,
    false_alarms: float = 0.05,
    answered: Sequence[ReplayedMessage] = (),
    on_answered: Callable[[ReplayedMessage], None] | None = None,
    on_turn: Callable[[ReplayTurn], None] | None = None,
) -> Replay:
    """Answer the same user messages uncapped and capped; both arms' turn-by-turn projections.

    Only the user messages and the system message of the conversation are used; its answers are
    generated anew, and each arm continues its own history. Both arms draw with the same seed at
    the same turn. With several draws as many conversations go on side by side in each arm; the
    answers shown are those of the first, and each turn has its mean over them with an interval.
    Without a temperature all draws would be the same, so there is one.
    Where the next turn would not fit into the model's context, the replay ends, and says so.
    A turn to which an arm gives an empty answer has no projection: it is listed as
    `unread`, the others keep their numbers, and the replay continues.
    `answered` are the first messages as an interrupted replay with the same arguments answered
    them (`on_answered` was called with each): they are not answered again.
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
    if draws < 1:
        raise UsageError(f"draws is {draws}, expected 1 or more; give a larger number")
    if sampling.temperature == 0:
        draws = 1
    system = tuple(m for m in script.messages if m.speaker == "system")
    arms = _Arms(
        _Arm(engine, gauge, [system] * draws, ()),
        _Arm(engine, gauge, [system] * draws, tuple(floors)),
    )
    known = iter(answered)
    firing = Firing({}, {})
    turns: list[ReplayTurn] = []
    unread: list[int] = []
    ended = ""
    for number, message in enumerate(m for m in script.messages if m.speaker == "user"):
        said = next(known, None)
        if said is None:
            seeds = [_turn_seed(seed, number, draw) for draw in range(draws)]
            try:
                said = arms.answer(message, sampling, seeds)
            except ContextLengthError as error:
                if not number:
                    raise
                ended = str(error)
                break
            if on_answered is not None:
                on_answered(said)
        arms.follow(message, said)
        firing += Firing(said.fired, said.slots)
        turn = _turn(gauge, number, message.content, said)
        if turn is None:
            unread.append(number)
            continue
        turns.append(turn)
        if on_turn is not None:
            on_turn(turn)
    return Replay(
        conversation_id=script.id,
        layer=gauge.layer,
        floor=gauge.floor,
        setting=floors.name,
        turns=tuple(turns),
        firing_rate=firing.rate,
        false_alarms=gauge.stated_false_alarms,
        unread=tuple(unread),
        draws=draws,
        ended=ended,
    )


def _turn(gauge: Gauge, number: int, user: str, said: ReplayedMessage) -> ReplayTurn | None:
    """A turn as it is read; None where an arm's first draw is empty."""
    uncapped = [_reading(gauge, number, answer) for answer in said.uncapped]
    capped = [_reading(gauge, number, answer) for answer in said.capped]
    first, capped_first = uncapped[0], capped[0]
    if first is None or capped_first is None:
        return None
    spread = _spread(uncapped, capped) if len(uncapped) > 1 else None
    return ReplayTurn(user, first, capped_first, spread)


def _reading(gauge: Gauge, turn: int, answer: ReplayedAnswer) -> TurnReading | None:
    projections_TK = torch.tensor(answer.projections, dtype=torch.float64)[:, None]
    reading = gauge.reading(turn, projections_TK, answer.text)
    return None if reading is None else replace(reading, is_cut=answer.is_cut)


def _spread(
    uncapped: Sequence[TurnReading | None], capped: Sequence[TurnReading | None]
) -> ReplaySpread | None:
    """A turn over the draws that both arms answered; None of fewer than two."""
    pairs = [
        (plain.gaps, held.gaps)
        for plain, held in zip(uncapped, capped, strict=True)
        if plain is not None and held is not None
    ]
    if len(pairs) < 2:
        return None
    apart = Clusters({}, {}, len(pairs))
    plain_N, held_N = np.array(pairs).T
    return ReplaySpread(
        mean_interval(plain_N, apart),
        mean_interval(held_N, apart),
        mean_interval(held_N - plain_N, apart),
        len(pairs),
    )


@dataclass
class _Arm:
    """One of the two sides, all its draws as they grow."""

    engine: Engine
    gauge: Gauge
    histories: list[tuple[Message, ...]]
    floors: tuple[Floor, ...]

    def prompts(self, message: Message) -> list[Prompt]:
        """The next turn of each draw."""
        return [Prompt("replay", Conversation((*each, message))) for each in self.histories]

    def check_room(self, message: Message, sampling: Sampling) -> None:
        """Raise ContextLengthError where a full answer in one of the draws does not fit."""
        context = getattr(self.engine, "context_tokens", None)
        if context is not None:
            lengths = [
                (prompt.id, len(self.engine.template.prompt_ids(prompt.conversation)))
                for prompt in self.prompts(message)
            ]
            check_context(lengths, context, new_tokens=sampling.max_new_tokens)

    def answer(
        self, message: Message, sampling: Sampling, seeds: Sequence[int]
    ) -> tuple[tuple[ReplayedAnswer, ...], Firing]:
        """The next turn's answer in each draw, and what the floors moved. Changes nothing.

        Raises ContextLengthError where it does not fit.
        """
        prompts = self.prompts(message)
        said: dict[int, ReplayedAnswer] = {}
        firing = Firing({}, {})
        for batch in self.engine.plan(prompts, sampling):
            answers = self.engine.generate(
                [prompts[index] for index in batch.indices],
                sampling,
                seed=[seeds[index] for index in batch.indices],
                recording=self.gauge.recording,
                interventions=self.floors,
            )
            for answer in answers:
                assert answer.projections_TK is not None, "the engine recorded no projections"
                said[batch.indices[answer.index]] = ReplayedAnswer(
                    answer.text,
                    tuple(answer.token_ids),
                    tuple(answer.projections_TK[:, 0].double().tolist()),
                    answer.finish == "length",
                )
            firing += answers.firing or Firing({}, {})
        return tuple(said[index] for index in range(len(prompts))), firing

    def follow(self, message: Message, answers: Sequence[ReplayedAnswer]) -> None:
        """Go on behind a turn."""
        self.histories = [
            Conversation((*history, message)).with_reply(answer.text, answer.token_ids).messages
            for history, answer in zip(self.histories, answers, strict=True)
        ]


@dataclass(frozen=True)
class _Arms:
    """Both sides, each on its own histories."""

    uncapped: _Arm
    capped: _Arm

    def answer(self, message: Message, sampling: Sampling, seeds: Sequence[int]) -> ReplayedMessage:
        # Where the capped side has no room left, nothing is answered for the uncapped one either.
        self.capped.check_room(message, sampling)
        uncapped, _ = self.uncapped.answer(message, sampling, seeds)
        capped, firing = self.capped.answer(message, sampling, seeds)
        return ReplayedMessage(uncapped, capped, firing.fired, firing.slots)

    def follow(self, message: Message, said: ReplayedMessage) -> None:
        self.uncapped.follow(message, said.uncapped)
        self.capped.follow(message, said.capped)


def _user_messages(conversation: Conversation | Sequence[str]) -> Conversation:
    """The system message, if there is one, and the user messages."""
    if isinstance(conversation, str):
        raise UsageError(f"user messages are one text, {conversation[:40]!r}; pass a list of texts")
    if not isinstance(conversation, Conversation):
        return Conversation(tuple(Message("user", question) for question in conversation))
    check_questions([conversation])
    kept = tuple(m for m in conversation.messages if m.speaker != "assistant")
    return Conversation(kept, conversation.id)


def check_questions(conversations: Sequence[Conversation]) -> None:
    """Raise UsageError for a conversation without a user message to answer."""
    for conversation in conversations:
        if not any(message.speaker == "user" for message in conversation.messages):
            raise UsageError(
                f"conversation {conversation.id!r} has no user message, expected at least one to "
                "answer; add what is asked"
            )


def _turn_seed(seed: int, turn: int, draw: int) -> int:
    """The seed of each turn in each draw, below 2^63 as torch requires."""
    name = f"turn {turn}" if draw == 0 else f"draw {draw}/turn {turn}"
    return seed_of(seed, name, separator="/", bits=63)
