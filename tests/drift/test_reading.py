"""Given conversations end up where they were planted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keel.drift import read_drift
from keel.errors import ModelMismatchError, NotFiniteError, UsageError
from keel.geometry import unit
from keel.steering import Addition
from keel.testing import FakeEngine
from keel.types import (
    Conversation,
    DefaultAnswers,
    Floor,
    Floors,
    Message,
    ModelIdentity,
    TurnLevels,
    system_hash,
)

LAYER = 2
"""The axis' own layer with four layers; personas 1, 0.5 and 0 project to 3, 1.5 and 0 there."""


def engine(**settings) -> FakeEngine:
    return FakeEngine(personas={"pirate": 0.5, "ghost": 0.0, "help": 1.0}, **settings)


def talk(*pairs: tuple[str, str], id: str = "talk") -> Conversation:
    messages = [
        message
        for user, answer in pairs
        for message in (Message("user", user), Message("assistant", answer))
    ]
    return Conversation(tuple(messages), id)


DRIFTING = talk(("help me", "gladly so"), ("be a pirate", "arr arr arr"), ("be a ghost", "boo"))


def band(value: float, layer: int = LAYER, direction=None) -> Floors:
    direction = engine().axis.direction[layer] if direction is None else direction
    return Floors((Floor(layer, direction, value),), "a band")


def only(found):
    (reading,) = found
    return reading


def test_a_planted_drift_is_found_turn_by_turn():
    reading = only(read_drift(engine(noise=0), [DRIFTING], engine().axis))
    assert [turn.projection for turn in reading.turns] == pytest.approx([3, 1.5, 0], abs=1e-5)
    assert [turn.gaps for turn in reading.turns] == pytest.approx([1, 0.5, 0], abs=1e-5)
    assert (reading.conversation_id, reading.layer) == ("talk", LAYER)


def test_a_turns_projection_is_the_mean_over_its_own_tokens():
    turns = only(read_drift(engine(noise=0.5), [DRIFTING], engine().axis)).turns
    assert [len(turn.token_projections) for turn in turns] == [2, 3, 1]
    for turn in turns:
        mean = sum(turn.token_projections) / len(turn.token_projections)
        assert turn.projection == pytest.approx(mean)
    assert len(set(turns[1].token_projections)) == 3


def test_another_layer_can_be_asked_for():
    """Persona 1 projects to layer + 1: 1 at layer 0, still one gap above the roles."""
    first = only(read_drift(engine(noise=0), [DRIFTING], engine().axis, layer=0)).turns[0]
    assert (first.projection, first.gaps) == pytest.approx((1, 1))


def test_readings_come_in_the_order_given_though_the_engine_has_none():
    talks = [talk(("help", "x"), id=str(n)) for n in range(5)]
    found = read_drift(engine(), talks, engine().axis)
    assert [reading.conversation_id for reading in found] == ["0", "1", "2", "3", "4"]


def test_everything_is_read_in_one_call_that_records_one_projection_alone():
    calls = []

    class Counting(FakeEngine):
        def read(self, conversations, *, recording, interventions=()):
            calls.append((len(conversations), recording))
            return super().read(conversations, recording=recording, interventions=interventions)

    list(read_drift(Counting(), [DRIFTING] * 3, FakeEngine().axis))
    ((count, recording),) = calls
    assert (count, len(recording.probes), recording.means) == (3, 1, False)


def test_turns_below_the_floor_are_marked_and_those_above_are_not():
    reading = only(read_drift(engine(noise=0), [DRIFTING], engine().axis, floors=band(1.0)))
    assert [turn.is_below_floor for turn in reading.turns] == [False, False, True]
    assert reading.floor == 1.0


def known_answers() -> DefaultAnswers:
    """Default answers at 0.80, 0.81, ... 1.19 gaps, layers alike."""
    gaps = (0.8 + 0.01 * torch.arange(40.0))[:, None].expand(-1, engine().layers)
    return DefaultAnswers(gaps, torch.ones(40).long(), torch.arange(40))


def known_levels(*means: float, system: str | None = None) -> TurnLevels:
    """Twenty conversations, 0.1 gaps apart."""
    count = len(means)
    hashed = system_hash(system)
    return TurnLevels(LAYER, means, (0.1,) * count, (20,) * count, "planted", hashed)


def marks(**settings) -> list[bool]:
    found = read_drift(engine(noise=0), [DRIFTING], engine().axis, **settings)
    return [turn.is_low for turn in only(found).turns]


def test_a_first_turn_is_marked_where_default_answers_of_its_length_hardly_ever_are():
    haunted = talk(("be a ghost", "boo"), ("help me", "gladly so"))
    reading = only(
        read_drift(engine(noise=0), [haunted], engine().axis, default_answers=known_answers())
    )
    assert [turn.is_low for turn in reading.turns] == [True, False]
    assert marks(default_answers=known_answers()) == [False, False, False]
    assert reading.false_alarms.value == 0.05
    assert reading.false_alarms.low < 0.05 < reading.false_alarms.high
    assert reading.turns[0].lowest_usual_gaps == pytest.approx(0.81, abs=0.02)


def test_a_later_turn_is_marked_where_default_conversations_hardly_ever_are_at_that_turn():
    """The turns stand at 1, 0.5 and 0 gaps; default ones are spread by 0.1."""
    assert marks(levels=known_levels(1.0, 0.5, 0.1)) == [False, False, False]
    assert marks(levels=known_levels(1.0, 0.5, 0.5)) == [False, False, True]
    assert marks(levels=known_levels(1.0, 0.9)) == [False, True, True]
    found = read_drift(engine(), [DRIFTING], engine().axis, levels=known_levels(1.0, 0.9))
    turns = only(found).turns
    assert [turn.expected_gaps for turn in turns] == [1.0, 0.9, 0.9]
    assert turns[2].mark == "unusually low for turn 3"


def test_levels_by_turn_under_another_system_prompt_or_of_few_conversations_mark_nothing():
    assert not any(marks(levels=known_levels(9.0, 9.0, system="Be brief.")))
    few = replace(known_levels(9.0, 9.0), counts=(9, 9))
    assert not any(marks(levels=few))
    with pytest.raises(UsageError, match="levels by turn are of layer 0"):
        marks(levels=replace(few, layer=0))


def test_a_turn_is_read_again_behind_its_message_alone():
    seen = []

    class Remembering(FakeEngine):
        def read(self, conversations, *, recording, interventions=()):
            seen.extend(conversations)
            return super().read(conversations, recording=recording, interventions=interventions)

    fake = Remembering(personas={"pirate": 0.5, "ghost": 0.0, "help": 1.0}, noise=0)
    guided = Conversation((Message("system", "Be brief."), *DRIFTING.messages), "guided")
    reading = only(read_drift(fake, [guided], fake.axis, is_alone_read=True))
    assert [turn.gaps_alone for turn in reading.turns] == pytest.approx([1, 0.5, 0], abs=1e-5)
    assert [[m.content for m in each.messages] for each in seen[:2]] == [
        ["Be brief.", "be a pirate", "arr arr arr"],
        ["Be brief.", "be a ghost", "boo"],
    ]
    assert all(t.gaps_alone is None for t in only(read_drift(fake, [guided], fake.axis)).turns)


@pytest.mark.parametrize("known", [None, DefaultAnswers(torch.ones(9, 4), *[torch.arange(9)] * 2)])
def test_where_default_answers_are_unknown_or_few_no_turn_is_marked(known):
    reading = only(read_drift(engine(noise=0), [DRIFTING], engine().axis, default_answers=known))
    assert not any(turn.is_low for turn in reading.turns)
    assert reading.false_alarms is None


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, -0.1, float("nan")])
def test_a_share_of_false_alarms_lies_between_none_and_half(share):
    with pytest.raises(UsageError, match="false alarms are"):
        read_drift(engine(), [DRIFTING], engine().axis, false_alarms=share)


def test_a_turn_held_at_its_floor_is_not_below_it_for_rounding():
    """One thousandth of the gap of 3 under the floor: bfloat16 alone can cost that."""
    reading = only(read_drift(engine(noise=0), [DRIFTING], engine().axis, floors=band(3.003)))
    assert reading.turns[0].is_below_floor is False
    clearly = only(read_drift(engine(noise=0), [DRIFTING], engine().axis, floors=band(3.1)))
    assert clearly.turns[0].is_below_floor is True


@pytest.mark.parametrize(
    "floors",
    [
        None,
        band(9.0, layer=1),
        band(9.0, direction=unit(torch.arange(8.0))),
        band(9.0, direction=-engine().axis.direction[LAYER]),
    ],
    ids=["none", "another layer", "another direction", "role-ward"],
)
def test_without_a_floor_here_along_the_axis_nothing_is_said_of_floors(floors):
    reading = only(read_drift(engine(), [DRIFTING], engine().axis, floors=floors))
    assert reading.floor is None
    assert {turn.is_below_floor for turn in reading.turns} == {None}


def test_floors_only_mark_and_interventions_only_act():
    axis = engine().axis
    marked = only(read_drift(engine(noise=0), [DRIFTING], axis, floors=band(2.0)))
    held = only(read_drift(engine(noise=0), [DRIFTING], axis, interventions=band(2.0).floors))
    assert [turn.projection for turn in marked.turns] == pytest.approx([3, 1.5, 0], abs=1e-5)
    assert [turn.projection for turn in held.turns] == pytest.approx([3, 2, 2], abs=1e-5)
    assert held.floor is None


def test_an_addition_moves_what_is_read_by_its_amount():
    axis = engine().axis
    step = Addition(LAYER, axis.direction[LAYER], -1.25)
    reading = only(read_drift(engine(noise=0), [DRIFTING], axis, interventions=[step]))
    assert reading.turns[0].projection == pytest.approx(3 - 1.25)


def test_an_empty_turn_is_said_and_the_others_keep_their_numbers_and_texts():
    given = talk(("help", "first"), ("help", "  "), ("help", "third one"))
    reading = only(read_drift(engine(), [given], engine().axis))
    assert [(turn.turn, turn.text) for turn in reading.turns] == [(0, "first"), (2, "third one")]
    assert reading.unread == (1,)


def test_a_conversation_of_empty_answers_has_a_path_without_turns():
    assert only(read_drift(engine(), [talk(("help", ""))], engine().axis)).turns == ()


def test_a_conversation_without_answers_is_refused_at_once_by_name():
    unanswered = Conversation((Message("user", "hello?"),), "lonely")
    with pytest.raises(UsageError, match=r"'lonely' has 1 message\(s\) and no assistant turn"):
        read_drift(engine(), [DRIFTING, unanswered], engine().axis)


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_the_model_lacks_is_refused_at_once(layer):
    with pytest.raises(UsageError, match=f"layer is {layer}, expected 0 to 3"):
        read_drift(engine(), [DRIFTING], engine().axis, layer=layer)


def test_an_axis_or_floors_of_another_model_are_refused():
    with pytest.raises(ModelMismatchError, match="the axis belong"):
        read_drift(FakeEngine(layers=6), [DRIFTING], engine().axis)
    floors = replace(band(1.0), identity=ModelIdentity("other", 4, 16))
    with pytest.raises(ModelMismatchError, match="the floors belong"):
        read_drift(engine(), [DRIFTING], engine().axis, floors=floors)


NO_GAPS = [
    (3.0, "expected more than 0"),
    (4.0, "expected more than 0"),
    (float("nan"), "does not say where default and roles lie"),
]


@pytest.mark.parametrize(("role", "words"), NO_GAPS)
def test_an_axis_without_a_positive_gap_is_refused(role, words):
    """Gap units divide by it; a negative one would turn the sign round."""
    axis = replace(engine().axis, role_projection=torch.full((4,), role))
    with pytest.raises(UsageError, match=words):
        read_drift(engine(), [DRIFTING], axis)


def test_a_projection_that_is_not_finite_stops_the_reading():
    broken = FakeEngine(personas={"odd": float("nan")})
    with pytest.raises(NotFiniteError, match="turn 2 projects to nan at layer 2"):
        list(read_drift(broken, [talk(("help", "a"), ("odd", "b"))], engine().axis))
