"""The same claims on a real engine with a tiny random model: the fake has not been kind to us."""

from __future__ import annotations

import pytest
import torch

from keel.drift import read_drift, read_thinking, replay
from keel.engines.transformers import TransformersEngine
from keel.testing import tiny_model, tiny_tokenizer
from keel.types import AssistantAxis, Conversation, Floor, Floors, Message, Sampling

LAYER = 2


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(tiny_model("llama"), tiny_tokenizer())


@pytest.fixture(scope="module")
def axis(engine) -> AssistantAxis:
    """A random direction; its means are made up, so that gap units exist."""
    vector = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    ones, norm = torch.ones(4), torch.full((4,), 10.0)
    return AssistantAxis(vector, LAYER, ones, -ones, norm, engine.identity)


def band(axis: AssistantAxis, value: float) -> Floors:
    return Floors(tuple(Floor(n, axis.direction[n], value) for n in (1, LAYER)), "layers_1:3")


def played(engine, axis, floors):
    return replay(
        engine,
        ["who are you?", "and the ghost?"],
        axis,
        floors=floors,
        sampling=Sampling(max_new_tokens=6, temperature=1.0, top_p=1.0),
        seed=3,
    )


def test_capped_tokens_stand_at_the_floor_and_uncapped_ones_do_not(engine, axis):
    found = played(engine, axis, band(axis, 2.0))
    capped = [p for turn in found.turns for p in turn.capped.token_projections]
    uncapped = [p for turn in found.turns for p in turn.uncapped.token_projections]
    assert min(capped) > 2.0 - 1e-4
    assert min(uncapped) < 1.0
    assert 0 < found.firing_rate <= 1
    assert not any(turn.capped.is_below_floor for turn in found.turns)


def test_floors_that_nobody_is_under_leave_the_arms_equal(engine, axis):
    found = played(engine, axis, band(axis, -1e4))
    assert found.turns[0].uncapped == found.turns[0].capped
    assert found.turns[1].uncapped == found.turns[1].capped
    assert found.firing_rate == 0


def test_a_padded_batch_reads_as_each_conversation_does_alone(engine, axis):
    talks = [
        Conversation(
            (Message("user", "what " * n), Message("assistant", "you are the model " * (4 - n))),
            str(n),
        )
        for n in range(1, 4)
    ]
    together = list(read_drift(engine, talks, axis))
    alone = [next(iter(read_drift(engine, [talk], axis))) for talk in talks]
    assert [reading.conversation_id for reading in together] == ["1", "2", "3"]
    for one, other in zip(together, alone, strict=True):
        assert one.turns[0].token_projections == pytest.approx(
            other.turns[0].token_projections, abs=1e-4
        )


def test_thinking_is_a_path_of_its_own_beside_the_answers(engine, axis):
    """Answers project as if nothing had been thought; thinking is read where it stood."""
    thoughts = ("well, well", "", "so so")
    answers = ("good day", "yes", "very well")
    asked = [Message("user", "hello") for _ in answers]
    plain = [Message("assistant", a) for a in answers]
    written = [
        Message("assistant", f"{t}</think>{a}" if t else a)
        for t, a in zip(thoughts, answers, strict=True)
    ]
    bare, thinking = (
        Conversation(tuple(m for pair in zip(asked, given, strict=True) for m in pair), "talk")
        for given in (plain, written)
    )
    (answered,), (expected,) = (list(read_drift(engine, [t], axis)) for t in (thinking, bare))
    for turn, other in zip(answered.turns, expected.turns, strict=True):
        assert turn.projection == pytest.approx(other.projection)
    (path,) = read_thinking(engine, [thinking], axis)
    assert path.conversation_id == "talk (thinking)"
    assert [(turn.turn, turn.text) for turn in path.turns] == [(0, "well, well"), (2, "so so")]
    assert path.unread == (1,)
