"""Results carry the firing of their own call, and are not given out where steering failed."""

from __future__ import annotations

import pytest

from keel.engines import Completion, Reading, Results
from keel.errors import NotAppliedError
from keel.steering import Firing
from keel.testing import FakeEngine
from tests.engines.result_claims import CLAIMS, GIVEN, PROMPTS, floors, generate, read
from tests.engines.small import engine

ANSWER = Completion(0, "hello", (1, 2), "stop")
SILENT = Reading(0, ())


@pytest.mark.parametrize("make", [FakeEngine, engine], ids=["fake", "transformers"])
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_every_engine_says_of_each_call(make, claim):
    claim(make())


def results(given, firing: Firing | None, layers=(1, 2)) -> Results:
    def call():
        yield from given
        return firing

    return Results(call(), layers)


@pytest.mark.parametrize(
    "firing", [Firing({1: 0}, {1: 5}), Firing({1: 0, 2: 0}, {1: 5, 2: 0}), None]
)
def test_answers_that_some_layers_did_not_see_are_refused(firing):
    """Held at one layer of two, or not at all, they would be taken for held ones."""
    with pytest.raises(NotAppliedError, match=r"at layers \[(1, )?2\] saw no token"):
        list(results([ANSWER], firing))


def test_layers_that_saw_tokens_and_moved_none_were_reached():
    reached = results([ANSWER], Firing({1: 0, 2: 0}, {1: 5, 2: 5}))
    assert list(reached) == [ANSWER]
    assert reached.firing.rate == 0


def test_a_reading_without_a_turn_proves_nothing_and_is_no_fault():
    assert list(results([SILENT], Firing({1: 0, 2: 0}, {1: 0, 2: 0}))) == [SILENT]


@pytest.mark.parametrize(
    "call", [lambda e: generate(e, PROMPTS, 1, 2), lambda e: read(e, GIVEN, 2)]
)
def test_a_fake_engine_that_ignores_a_layer_is_refused_as_a_real_one_would_be(call):
    with pytest.raises(NotAppliedError, match=r"at layers \[2\] saw no token"):
        list(call(FakeEngine(unreached_layers=[2])))


def test_a_real_engine_whose_stack_is_passed_by_is_refused():
    """Neither the stack's own count nor a layer's saw a token, so nothing contradicted."""
    made = engine()

    def bypass(*_):
        for module in (made.decoder.stack, *made.decoder.blocks):
            module._forward_pre_hooks.clear()
            module._forward_hooks.clear()

    made.model.register_forward_pre_hook(bypass)
    with pytest.raises(NotAppliedError, match="saw no token"):
        list(generate(made, PROMPTS, 1))
    with pytest.raises(NotAppliedError, match="saw no token"):
        list(made.divergence(GIVEN, [floors(made, 1)]))
