"""A control's floors fire as often as the cap's do; only the direction differs."""

from dataclasses import replace

import pytest
import torch

from keel.engines import Probe, Reading, TurnRecord
from keel.errors import TooFewSamplesError
from keel.evaluate.controls import (
    Control,
    _lifting_height,
    draw_source,
    match_floors,
    random_directions,
)
from keel.steering import Intervention
from keel.testing import FakeEngine
from keel.types import Floor, Floors
from tests.engines import small
from tests.evaluate.answers import ANSWERS

LAYERS = (3, 4, 5)
PERCENTAGE_POINT = 0.01


@pytest.fixture
def engine():
    # Noise as large as the gap, so that projections spread on every direction.
    return FakeEngine(layers=8, noise=0.8)


def a_cap(axis, values: dict[int, float]) -> Floors:
    floors = tuple(Floor(layer, axis.direction[layer], v) for layer, v in values.items())
    return Floors(floors, "layers_3:6-p75")


def a_control(engine, cap: Floors) -> Control:
    chance = draw_source(0, "random", 1)
    return Control(cap, random_directions(engine.axis, list(cap.layers), chance))


def fires(engine, one: Intervention) -> float:
    """Share of tokens that one floor moves by itself, counted by the engine."""
    talks = [a.conversation for a in ANSWERS]
    readings = engine.read(talks, recording=NOTHING, interventions=[one])
    list(readings)
    return readings.firing.rate


NOTHING = small.Recording()
PLANE = Control(Floors((Floor(0, torch.tensor([1.0, 0.0]), 2.0),), "band"), torch.eye(2)[1:])


class Planted(FakeEngine):
    """Reads one answer, whose tokens are these pairs: on the axis, on the control."""

    def __init__(self, *pairs: tuple[float, float]) -> None:
        super().__init__()
        self.projections_TK = torch.tensor(pairs, dtype=torch.float32)

    def read(self, conversations, *, recording, **_):
        ids = tuple(range(len(self.projections_TK)))
        on_probes_TK = self.projections_TK @ torch.stack([p.direction for p in recording.probes]).T
        yield Reading(0, (TurnRecord(0, ids, None, on_probes_TK, None),))


def test_each_control_floor_fires_within_a_percentage_point_of_the_caps(engine):
    # Projections are noise of 0.8 around 0 (ghosts) and layer + 1 (default): from the lower
    # tail of the ghosts to the upper one of the default, the shares are all over the scale.
    cap = a_cap(engine.axis, {3: -0.5, 4: 2.5, 5: 6.5})
    (match,) = match_floors(engine, [a_control(engine, cap)], ANSWERS)
    caps = [fires(engine, floor) for floor in cap]
    assert [floor.layer for floor in match.floors] == [3, 4, 5]
    assert caps[0] < 0.3 < caps[1] < 0.6 < caps[2]
    assert [fires(engine, floor) for floor in match.floors] == pytest.approx(
        caps, abs=PERCENTAGE_POINT
    )
    assert match.nominal.firing == pytest.approx(sum(caps) / 3, abs=PERCENTAGE_POINT)
    assert match.cap_nominal.firing == pytest.approx(sum(caps) / 3, abs=PERCENTAGE_POINT)


def test_on_a_real_architecture_the_shares_match_too():
    made = small.engine()
    talks = small.answered(small.answers(made))
    answers = [_as_rollout(n, talk) for n, talk in enumerate(talks)]
    directions = torch.nn.functional.normalize(torch.randn(2, 32), dim=1)
    cap = Floors((Floor(1, directions[0], 0.0), Floor(2, directions[0], 0.3)), "band")
    (match,) = match_floors(made, [Control(cap, directions)], answers)
    assert 0.1 < match.cap_nominal.firing < 0.9
    assert match.nominal.firing == pytest.approx(match.cap_nominal.firing, abs=PERCENTAGE_POINT)
    for floor, control in zip(cap, match.floors, strict=True):
        rates = []
        for one in (floor, control):
            readings = made.read(talks, recording=NOTHING, interventions=[one])
            list(readings)
            rates.append(readings.firing.rate)
        assert rates[1] == pytest.approx(rates[0], abs=PERCENTAGE_POINT)


def _as_rollout(number, talk):
    from keel.types import Conversation, Prompt, Rollout

    asked, reply = Conversation(talk.messages[:-1]), talk.messages[-1]
    return Rollout(Prompt(f"q{number}", asked), reply.content, reply.token_ids, "stop")


def test_a_matched_floor_keeps_layer_and_tokens_and_lies_on_the_controls_direction(engine):
    prompt_only = Floors((Floor(4, engine.axis.direction[4], 2.5, "prompt"),), "band")
    control = a_control(engine, prompt_only)
    (match,) = match_floors(engine, [control], ANSWERS)
    assert (match.floors[0].layer, match.floors[0].tokens) == (4, "prompt")
    assert torch.equal(match.floors[0].direction, control.directions_FD[0])


def test_mean_lift_is_how_far_floors_move_an_average_slot():
    engine = FakeEngine(layers=8, noise=0.0)
    direction = torch.eye(8)[0]
    cap = Floors((Floor(3, engine.axis.direction[3], 5.0),), "band")
    (match,) = match_floors(engine, [Control(cap, direction[None])], ANSWERS)
    # Half the tokens project to 4, the ghosts' to 0: lifted by 1 and by 5, 3 on average.
    assert match.cap_nominal.lift == pytest.approx(3.0, abs=1e-4)
    # On the first coordinate they lie 4·v0 apart; a floor just above the upper ones lifts the
    # lower half by that, and the upper half by nothing.
    assert match.nominal.lift == pytest.approx(
        2 * abs(float(engine.axis.direction[3, 0])), abs=1e-4
    )
    assert match.cap_nominal.firing == 1.0
    assert match.nominal.firing == 1.0


def test_a_floor_under_everything_gets_a_control_that_never_fires_and_says_so(engine):
    cap = a_cap(engine.axis, {3: -100.0, 4: 2.5})
    (match,) = match_floors(engine, [a_control(engine, cap)], ANSWERS)
    assert fires(engine, match.floors[0]) == 0
    assert match.silent_layers == (3,)
    (nothing,) = match_floors(engine, [a_control(engine, a_cap(engine.axis, {3: -100.0}))], ANSWERS)
    assert (nothing.nominal.lift, nothing.cap_nominal.lift, nothing.nominal.firing) == (0, 0, 0)


def test_a_matched_floor_lies_between_the_tokens_that_the_share_parts():
    """The cap at 2 has one of 1, 2, 2, 3 under it, since a token at a floor is not moved. So the
    control's lies halfway between the lowest and the next: 15 lifts 10 by 5, 5/4 on average."""
    (match,) = match_floors(Planted((1, 10), (2, 20), (2, 30), (3, 40)), [PLANE], ANSWERS[:1])
    assert match.floors[0].value == 15
    assert (match.nominal.firing, match.cap_nominal.firing) == (1 / 4, 1 / 4)
    assert (match.nominal.lift, match.cap_nominal.lift) == (5 / 4, 1 / 4)


def test_where_ties_allow_no_better_match_that_shows():
    """Three tokens lie at the same height: a floor there moves none, one above it all three."""
    (match,) = match_floors(Planted((1, 10), (2, 10), (2, 10), (3, 40)), [PLANE], ANSWERS[:1])
    assert (match.nominal.firing, match.cap_nominal.firing) == (0, 1 / 4)


def test_answers_without_a_token_take_no_part_in_matching(engine):
    control = a_control(engine, a_cap(engine.axis, {4: 2.5}))
    empty = replace(ANSWERS[0], text="", token_ids=())
    (match,), (other,) = (
        match_floors(engine, [control], answers) for answers in (ANSWERS, [*ANSWERS, empty])
    )
    assert other.floors[0].value == match.floors[0].value


def lift_under(engine, floors) -> float:
    """Raw length by which the floors at work move an average slot, by readings of our own."""
    talks, lifts = [a.conversation for a in ANSWERS], []
    for floor in floors:
        before = [other for other in floors if other.layer < floor.layer]
        recording = small.Recording(probes=(Probe(floor.layer, floor.direction),))
        readings = engine.read(talks, recording=recording, interventions=before)
        heights = (reading.turns[-1].projections_TK for reading in readings)
        lifts += [(floor.value - height_TK).clamp_min(0).mean() for height_TK in heights]
    return float(torch.stack(lifts).mean())


def test_matched_in_lift_a_control_pushes_as_far_as_the_cap_with_all_layers_at_work(engine):
    """Matched in firing it pushes less: the axis holds the gap beside the noise, and a random
    direction the noise alone. All answers are alike in length, so means of means are means."""
    cap = a_cap(engine.axis, {3: 3.5, 4: 5.0, 5: 6.5})
    often = a_control(engine, cap)
    matched = match_floors(engine, [often, replace(often, matches_lift=True)], ANSWERS)
    caps = lift_under(engine, cap)
    weak, strong = (lift_under(engine, match.floors) for match in matched)
    assert weak < 0.8 * caps
    assert strong == pytest.approx(caps, rel=1e-3)
    assert matched[1].realised.lift == pytest.approx(strong, rel=1e-3)
    assert matched[1].cap_realised.lift == pytest.approx(caps, rel=1e-3)
    assert matched[0].realised.lift == pytest.approx(weak, rel=1e-3)


def test_the_height_that_lifts_so_far_is_the_one_worked_out_by_hand():
    """The cap at 2.5 lifts 1, 2, 2 by 1.5, 0.5, 0.5: 2.5/4 on average. On the control's direction
    that is 2.5 in all: 10 up to 12.5, which leaves 20, 30 and 40 alone."""
    higher = replace(
        PLANE, cap=Floors((Floor(0, torch.tensor([1.0, 0.0]), 2.5),), "b"), matches_lift=True
    )
    engine = Planted((1, 10), (2, 20), (2, 30), (3, 40))
    (match,) = match_floors(engine, [higher], ANSWERS[:1])
    assert match.floors[0].value == pytest.approx(12.5)
    assert match.realised.lift == pytest.approx(match.cap_realised.lift)


@pytest.mark.parametrize(("lift", "height"), [(0.0, 0.0), (0.25, 1.0), (1.0, 7 / 3), (10.0, 11.5)])
def test_lifting_reaches_past_as_many_tokens_as_it_takes(lift, height):
    """Of 0, 1, 2, 3 the lowest alone up to 1 takes 1, the lowest three up to 7/3 take 7 − 3, and
    all four up to 11.5 take 46 − 6: a quarter of these is the lift."""
    found = _lifting_height(torch.tensor([3.0, 0.0, 2.0, 1.0]), lift)
    assert found == pytest.approx(height)


def test_several_controls_share_the_reading_of_all_answers(engine):
    cap = a_cap(engine.axis, {3: 1.0})
    other = a_cap(engine.axis, {5: 6.5, 4: 2.0})
    calls = []
    told = []
    read = engine.read
    engine.read = lambda *given, **more: calls.append(1) or read(*given, **more)
    found = match_floors(
        engine,
        [a_control(engine, cap), Control(other, a_control(engine, other).directions_FD.flip(0))],
        ANSWERS,
        lambda done, total: told.append((done, total)),
    )
    # One of all for both; then each layer of each of two caps and two controls has its own.
    assert len(calls) == 1 + 2 * (1 + 2)
    assert told[-1] == (7 * 24, 7 * 24)
    assert [[f.layer for f in one.floors] for one in found] == [[3], [5, 4]]
    for one in found:
        assert one.nominal.firing == pytest.approx(one.cap_nominal.firing, abs=PERCENTAGE_POINT)


def test_without_answers_nothing_can_be_matched(engine):
    with pytest.raises(TooFewSamplesError, match="no answer on which a control"):
        match_floors(engine, [a_control(engine, a_cap(engine.axis, {3: 1.0}))], [])
