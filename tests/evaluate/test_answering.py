"""An engine's answers stand at their own conversations, placed on the axis, under the arm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from keel.engines import Reading, Results, TurnRecord
from keel.errors import NotAppliedError, NotFiniteError
from keel.evaluate import Arm, EngineAnswerer
from keel.testing import FakeEngine
from keel.types import Conversation, Floor, Message
from tests.evaluate.small import SAMPLING, none, pushed

TALKS = [Conversation((Message("user", f"say {n}"),)) for n in range(3)]


def given(text: str, token_ids: tuple[int, ...] | None = None) -> Conversation:
    return TALKS[0].with_reply(text, token_ids)


def test_every_reply_stands_at_its_own_conversation():
    """Whatever comes first: this engine gives the last one first."""
    engine = FakeEngine(reply=lambda talk, *_: talk.messages[-1].content)
    found = EngineAnswerer(engine).answer(TALKS, none(), SAMPLING, seed=0)
    assert [reply.text for reply in found.answers] == ["say 0", "say 1", "say 2"]


def test_perplexities_stand_at_their_own_conversations():
    """Of three answers the middle one says nothing; tokens of log-likelihood −1 and −2."""

    class Reader(FakeEngine):
        def read(self, conversations, **_) -> Iterator[Reading]:
            for place, talk in enumerate(conversations):
                told_T = torch.tensor([-float(talk.messages[-1].content)])
                yield Reading(place, (TurnRecord(0, (1,), None, None, told_T),))

    talks = [given("1"), given(""), given("2")]
    found = EngineAnswerer(Reader()).perplexities(talks)
    assert found == [pytest.approx(math.e), None, pytest.approx(math.e**2)]


def test_tokens_that_say_nothing_are_an_answer_all_the_same():
    """Half a letter is a token, and its text is empty."""

    class Reader(FakeEngine):
        def read(self, conversations, **_) -> Iterator[Reading]:
            for place, _ in enumerate(conversations):
                yield Reading(place, (TurnRecord(0, (7,), None, None, torch.tensor([-1.0])),))

    found = EngineAnswerer(Reader()).perplexities([given("", (7,)), given("", ())])
    assert found == [pytest.approx(math.e), None]


def test_an_engine_that_leaves_a_step_out_is_not_believed():
    """A step tells no firing rate, but that it was applied it must tell."""

    engine = FakeEngine(unreached_layers=range(4))
    with pytest.raises(NotAppliedError, match="saw no token"):
        EngineAnswerer(engine).answer(TALKS, pushed(engine), SAMPLING, seed=0)


def test_an_engine_that_reaches_some_of_an_arms_layers_is_not_believed():
    """Held at one layer of two, it had been taken for the arm."""

    engine = FakeEngine(unreached_layers=[2])
    floors = tuple(Floor(layer, engine.axis.direction[layer], 9.0) for layer in (1, 2))
    with pytest.raises(NotAppliedError, match=r"at layers \[2\] saw no token"):
        EngineAnswerer(engine).answer([given("a b")], Arm("capped", floors), SAMPLING, seed=0)


def test_a_projection_that_is_no_number_is_caught():
    class Overflowing(FakeEngine):
        def generate(self, *arguments, **more):
            return Results(
                replace(one, projections_TK=torch.full_like(one.projections_TK, math.nan))
                for one in super().generate(*arguments, **more)
            )

    engine = Overflowing()
    with pytest.raises(NotFiniteError, match="projects to nan"):
        EngineAnswerer(engine, engine.axis).answer(TALKS, none(), SAMPLING, seed=0)


def test_answers_are_placed_on_the_axis_as_it_lies_at_its_own_layer():
    """Its directions are made to differ: at the axis' own layer the planted one, elsewhere not."""
    engine = FakeEngine(noise=0.0)
    axis, layer = engine.axis, engine.axis.layer
    turned = axis.vector.roll(1, dims=1)
    turned[layer] = axis.vector[layer]
    answerer = EngineAnswerer(engine, replace(axis, vector=turned))
    # Persona 1 projects to layer + 1.
    found = answerer.answer(TALKS[:1], none(), SAMPLING, seed=0)
    assert found.answers[0].projection == pytest.approx(layer + 1, abs=1e-5)


def test_the_projection_is_the_mean_over_the_answers_tokens():
    """Tokens at 1, 2 and 6 stand at 3."""

    class Planted(FakeEngine):
        def generate(self, *arguments, **more):
            return Results(
                replace(one, projections_TK=torch.tensor([[1.0], [2.0], [6.0]]))
                for one in super().generate(*arguments, **more)
            )

    engine = Planted()
    found = EngineAnswerer(engine, engine.axis).answer(TALKS[:1], none(), SAMPLING, seed=0)
    assert found.answers[0].projection == 3
