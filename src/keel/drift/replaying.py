"""Replays a conversation's user messages uncapped and capped, each arm with its own history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from keel.drift.gauge import Gauge
from keel.engines import Engine
from keel.errors import ContextLengthError, UsageError
from keel.seeds import seed_of
from keel.statistics import Clusters, mean_interval
from keel.steering import Firing
from keel.types import (
    AssistantAxis,
    Conversation,
    DefaultAnswers,
    Floors,
    Message,
    Prompt,
    Replay,
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
    on_turn: Callable[[ReplayTurn], None] | None = None,
) -> Replay:
    """Answer the same user messages uncapped and capped; both arms' turn-by-turn projections.

    Only the user messages and the system message of the conversation are used; its answers are
    generated anew, and each arm continues its own history. Both arms draw with the same seed at
    the same turn. With several draws as many conversations go on side by side in each arm; the
    answers shown are those of the first, and each turn has its mean over them with an interval.
    Where the next turn would not fit into the model's context, the replay ends, and says so.
    A turn to which an arm gives an empty answer has no projection: it is listed as
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
    if draws < 1:
        raise UsageError(f"draws is {draws}, expected 1 or more; give a larger number")
    system = tuple(m for m in script.messages if m.speaker == "system")
    uncapped = _Arm(engine, gauge, [system] * draws, None)
    capped = _Arm(engine, gauge, [system] * draws, floors)
    turns: list[ReplayTurn] = []
    unread: list[int] = []
    ended = ""
    for number, message in enumerate(m for m in script.messages if m.speaker == "user"):
        seeds = [_turn_seed(seed, number, draw) for draw in range(draws)]
        try:
            without_floors = uncapped.answer(message.content, sampling, seeds)
            with_floors = capped.answer(message.content, sampling, seeds)
        except ContextLengthError as error:
            if not number:
                raise
            ended = str(error)
            break
        first, capped_first = without_floors[0], with_floors[0]
        if first is None or capped_first is None:
            unread.append(number)
            continue
        spread = _spread(without_floors, with_floors) if draws > 1 else None
        turns.append(ReplayTurn(message.content, first, capped_first, spread))
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
        draws=draws,
        ended=ended,
    )


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


class _Arm:
    """One of the two sides, all its draws as they grow."""

    def __init__(
        self,
        engine: Engine,
        gauge: Gauge,
        starts: Sequence[tuple[Message, ...]],
        floors: Floors | None,
    ) -> None:
        self.engine, self.gauge = engine, gauge
        self.histories = list(starts)
        self.floors = tuple(floors) if floors is not None else ()
        self.turn = 0
        self.firing = Firing({}, {})

    def answer(
        self, question: str, sampling: Sampling, seeds: Sequence[int]
    ) -> list[TurnReading | None]:
        """The next turn's reading in each draw; None where an answer is empty, which stays in the
        history all the same. Raises ContextLengthError, and changes nothing, where it does not
        fit."""
        extended = [Conversation((*h, Message("user", question))) for h in self.histories]
        prompts = [Prompt(f"replay/{self.turn}", conversation) for conversation in extended]
        readings: dict[int, TurnReading | None] = {}
        for batch in self.engine.plan(prompts, sampling):
            own = [seeds[index] for index in batch.indices]
            answers = self.engine.generate(
                [prompts[index] for index in batch.indices],
                sampling,
                seed=own,
                recording=self.gauge.recording,
                interventions=self.floors,
            )
            for answer in answers:
                index = batch.indices[answer.index]
                said = extended[index].with_reply(answer.text, answer.token_ids)
                self.histories[index] = said.messages
                assert answer.projections_TK is not None, "the engine recorded no projections"
                reading = self.gauge.reading(self.turn, answer.projections_TK, answer.text)
                is_cut = answer.finish == "length"
                readings[index] = None if reading is None else replace(reading, is_cut=is_cut)
            if answers.firing is not None:
                self.firing += answers.firing
        self.turn += 1
        return [readings[index] for index in range(len(extended))]


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


def _turn_seed(seed: int, turn: int, draw: int) -> int:
    """The seed of each turn in each draw, below 2^63 as torch requires."""
    name = f"turn {turn}" if draw == 0 else f"draw {draw}/turn {turn}"
    return seed_of(seed, name, separator="/", bits=63)
