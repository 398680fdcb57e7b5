"""What every engine promises of the firing of a call: claims that each engine's tests run."""

from __future__ import annotations

import pytest
import torch

from keel.engines import Engine, Probe, Recording
from keel.errors import UsageError
from keel.geometry import unit
from keel.types import Conversation, Floor, Message, Prompt, Sampling

SAMPLING = Sampling(max_new_tokens=4, temperature=0)
TALKS = [Conversation((Message("user", text),)) for text in ("hello", "what is the sea")]
PROMPTS = [Prompt(f"p{n}", talk) for n, talk in enumerate(TALKS)]
GIVEN = [talk.with_reply("good day to you") for talk in TALKS]


def floors(engine: Engine, *layers: int) -> list[Floor]:
    """Floors so high that every token is under them."""
    direction = unit(torch.ones(engine.identity.hidden_size))
    return [Floor(layer, direction, 1e4) for layer in layers]


def generate(engine: Engine, prompts: list[Prompt] = PROMPTS, *layers: int):
    return engine.generate(prompts, SAMPLING, seed=0, interventions=floors(engine, *layers))


def read(engine: Engine, conversations: list[Conversation] = GIVEN, *layers: int):
    return engine.read(
        conversations, recording=Recording(means=True), interventions=floors(engine, *layers)
    )


def an_unsteered_run_broken_off_after_one_answer_has_no_firing(engine: Engine) -> None:
    """It had that of the steered run before: an answer that nothing held was taken for held."""
    list(generate(engine, PROMPTS, 1))
    broken = generate(engine)
    next(broken)
    assert broken.firing is None
    broken.close()
    assert broken.firing is None


def a_steered_run_of_no_prompts_moved_nothing_at_all(engine: Engine) -> None:
    list(generate(engine, PROMPTS, 1))
    nothing = generate(engine, [], 1)
    assert list(nothing) == []
    assert nothing.firing.rate == 0
    assert sum(nothing.firing.slots.values()) == 0


def reading_nothing_under_floors_moved_nothing_at_all(engine: Engine) -> None:
    list(read(engine, GIVEN, 1))
    nothing = read(engine, [], 1)
    assert list(nothing) == []
    assert sum(nothing.firing.slots.values()) == 0


def each_call_keeps_its_own_firing(engine: Engine) -> None:
    first = generate(engine, PROMPTS[:1], 1)
    list(first)
    before = first.firing
    both = generate(engine, PROMPTS, 1, 2)
    list(both)
    assert set(first.firing.slots) == {1}
    assert set(both.firing.slots) == {1, 2}
    assert first.firing == before
    assert both.firing.slots[1] > before.slots[1]


def reading_without_interventions_has_no_firing(engine: Engine) -> None:
    steered = read(engine, GIVEN, 1)
    list(steered)
    plain = read(engine)
    list(plain)
    assert plain.firing is None
    assert steered.firing.rate == 1


def firing_is_refused_before_all_results_were_taken(engine: Engine) -> None:
    results = generate(engine, PROMPTS, 1)
    next(results)
    with pytest.raises(UsageError, match="not all taken yet"):
        _ = results.firing
    list(results)
    assert results.firing.rate > 0


def firing_is_refused_after_a_break(engine: Engine) -> None:
    results = generate(engine, PROMPTS, 1)
    next(results)
    results.close()
    with pytest.raises(UsageError, match="broken off"):
        _ = results.firing
    with pytest.raises(UsageError, match="call the engine again"):
        next(results)


def a_call_begun_later_is_not_steered_by_one_left_half_done(engine: Engine) -> None:
    """Kept by name, an unfinished call would keep its hooks on the model."""
    alone = {c.index: c.token_ids for c in generate(engine)}
    left = generate(engine, PROMPTS, 1)
    next(left)
    assert {c.index: c.token_ids for c in generate(engine)} == alone
    with pytest.raises(UsageError, match="the engine has begun another call"):
        next(left)


def a_conversation_without_an_answer_is_read_under_floors_all_the_same(engine: Engine) -> None:
    """No token of it counts, and none was missed."""
    results = read(engine, TALKS[:1], 1)
    (reading,) = results
    assert reading.turns == ()
    assert results.firing.rate == 0


def floors_above_the_layer_that_is_read_are_counted_too(engine: Engine) -> None:
    """A pass that ended at the layer read left them out without a word."""
    probing = Recording(probes=(Probe(0, unit(torch.ones(engine.identity.hidden_size))),))
    readings = engine.read(GIVEN, recording=probing, interventions=floors(engine, 0, 1))
    assert len(list(readings)) == len(GIVEN)
    assert readings.firing.slots[0] == readings.firing.slots[1] > 0
    above = engine.read(GIVEN, recording=probing, interventions=floors(engine, 1))
    list(above)
    assert above.firing.slots == {1: readings.firing.slots[1]}


def results_that_were_all_taken_stay_at_their_end(engine: Engine) -> None:
    results = generate(engine, PROMPTS, 1)
    assert len(list(results)) == 2
    assert list(results) == []
    assert results.firing.rate > 0


CLAIMS = (
    an_unsteered_run_broken_off_after_one_answer_has_no_firing,
    a_steered_run_of_no_prompts_moved_nothing_at_all,
    reading_nothing_under_floors_moved_nothing_at_all,
    each_call_keeps_its_own_firing,
    reading_without_interventions_has_no_firing,
    firing_is_refused_before_all_results_were_taken,
    firing_is_refused_after_a_break,
    a_call_begun_later_is_not_steered_by_one_left_half_done,
    a_conversation_without_an_answer_is_read_under_floors_all_the_same,
    floors_above_the_layer_that_is_read_are_counted_too,
    results_that_were_all_taken_stay_at_their_end,
)
