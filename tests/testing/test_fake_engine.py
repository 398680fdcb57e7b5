"""The fake engine keeps an engine's promises, and its planted truth is where it says."""

from __future__ import annotations

import pytest
import torch

from keel.engines import Engine, Probe, Recording
from keel.steering import Addition
from keel.testing import FakeEngine, scripted
from keel.types import Conversation, Floor, Message, Prompt, Sampling

SAMPLING = Sampling(max_new_tokens=16)


def asked(text: str, system: str | None = None) -> Conversation:
    first = () if system is None else (Message("system", system),)
    return Conversation((*first, Message("user", text)))


def probing(engine: FakeEngine, *layers: int) -> Recording:
    return Recording(
        means=True, probes=tuple(Probe(layer, engine.axis.direction[layer]) for layer in layers)
    )


def answers(engine, *conversations, seed=0, sampling=SAMPLING, **options):
    prompts = [Prompt(str(n), c) for n, c in enumerate(conversations)]
    found = list(engine.generate(prompts, sampling, seed=seed, **options))
    return sorted(found, key=lambda completion: completion.index)


def firing_of(engine, conversation, **options):
    completions = engine.generate([Prompt("0", conversation)], SAMPLING, seed=0, **options)
    list(completions)
    return completions.firing


def test_it_is_an_engine():
    assert isinstance(FakeEngine(), Engine)


def test_the_default_projects_to_layer_plus_one_and_a_persona_to_its_share():
    """Without noise: persona 1 at layer 2 gives 3, persona 0.25 gives 0.75."""
    engine = FakeEngine(noise=0, personas={"ghost": 0.25})
    plain, ghost = answers(
        engine, asked("a b"), asked("a b", "be a ghost"), recording=probing(engine, 2)
    )
    assert plain.projections_TK.flatten().tolist() == pytest.approx([3, 3])
    assert ghost.projections_TK.flatten().tolist() == pytest.approx([0.75] * 3)  # it howls first


def test_a_persona_word_counts_from_where_it_is_said():
    engine = FakeEngine(noise=0)
    talk = asked("hello").with_reply("well hello").with_user("be a ghost").with_reply("boo")
    (reading,) = engine.read([talk], recording=probing(engine, 0))
    first, second = (turn.projections_TK.mean().item() for turn in reading.turns)
    assert (first, second) == pytest.approx((1, 0))


def test_reading_what_was_generated_finds_what_was_recorded():
    engine = FakeEngine()
    talk = asked("some words to say", "ghost")
    (done,) = answers(engine, talk, recording=probing(engine, 1, 3))
    given = talk.with_reply(done.text, done.token_ids)
    (reading,) = engine.read([given], recording=probing(engine, 1, 3))
    assert torch.equal(reading.turns[0].projections_TK, done.projections_TK)
    assert torch.equal(reading.turns[0].activations.means_LD, done.activations.means_LD)


def test_capped_projections_reach_the_floor_and_those_above_stay():
    engine = FakeEngine(noise=0.5)
    talk = asked("one two three four five six seven eight")
    (plain,) = answers(engine, talk, recording=probing(engine, 1))
    floor = Floor(1, engine.axis.direction[1], float(plain.projections_TK.median()))
    (capped,) = answers(engine, talk, recording=probing(engine, 1), interventions=[floor])
    expected = plain.projections_TK.clamp_min(floor.value)
    assert torch.allclose(capped.projections_TK, expected, atol=1e-5)
    assert not torch.allclose(plain.projections_TK, expected, atol=1e-3)


def test_a_later_layer_keeps_what_an_earlier_one_was_moved_by():
    engine = FakeEngine(noise=0)
    addition = Addition(0, engine.axis.direction[0], 5.0)
    (moved,) = answers(
        engine, asked("word"), recording=probing(engine, 3), interventions=[addition]
    )
    assert moved.projections_TK.item() == pytest.approx(4 + 5)


def test_firing_counts_prompt_and_answer_when_generating_and_the_answer_when_reading():
    """'be ghost' asks with 2 words; scripted 'a b c' is 3: all 5 lie at 0, below a floor of 1."""
    engine = FakeEngine(noise=0, reply=scripted("a b c"))
    floor = Floor(1, engine.axis.direction[1], 1.0)
    firing = firing_of(engine, asked("be ghost"), interventions=[floor])
    assert firing.fired == firing.slots == {1: 5}
    talk = asked("be ghost").with_reply("a b c")
    readings = engine.read([talk], recording=Recording(means=True), interventions=[floor])
    list(readings)
    assert readings.firing.fired == readings.firing.slots == {1: 3}


def test_a_generated_floor_leaves_the_prompt_alone():
    engine = FakeEngine(noise=0, reply=scripted("a b c"))
    floor = Floor(1, engine.axis.direction[1], 1.0, "generated")
    talk = asked("ghost").with_reply("old").with_user("hm")
    firing = firing_of(engine, talk, interventions=[floor])
    assert firing.fired == {1: 3}
    assert firing.slots == {1: 6}


def test_the_seed_decides_sampled_answers_and_greedy_ones_ignore_it():
    engine = FakeEngine()
    talk = asked("one two three four five six")
    assert answers(engine, talk, seed=1)[0].text == answers(engine, talk, seed=1)[0].text
    assert answers(engine, talk, seed=1)[0].text != answers(engine, talk, seed=2)[0].text
    greedy = Sampling(temperature=0)
    first, second = (answers(engine, talk, seed=s, sampling=greedy)[0].text for s in (1, 2))
    assert first == second


def test_a_long_answer_is_cut_and_says_so():
    (cut,) = answers(
        FakeEngine(reply=scripted("a b c d")), asked("x"), sampling=Sampling(max_new_tokens=3)
    )
    assert (cut.text, len(cut.token_ids), cut.finish) == ("a b c", 3, "length")


def test_an_empty_answer_has_no_activations():
    engine = FakeEngine(reply=scripted(""))
    (done,) = answers(engine, asked("x"), recording=probing(engine, 0))
    assert (done.text, done.token_ids, done.activations) == ("", (), None)
    assert done.projections_TK.shape == (0, 1)


def test_scripted_answers_follow_the_turns():
    engine = FakeEngine(reply=scripted("one", "two"))
    talk = asked("x")
    assert answers(engine, talk)[0].text == "one"
    assert answers(engine, talk.with_reply("one").with_user("y"))[0].text == "two"


def test_capping_changes_the_answer():
    """The ghost howls; held at 1 · (layer + 1) it is the default again, and does not."""
    engine = FakeEngine()
    floors = [Floor(n, engine.axis.direction[n], n + 1.0) for n in range(engine.layers)]
    talk = asked("hello", "ghost")
    assert answers(engine, talk)[0].text == "whooo hello"
    assert answers(engine, talk, interventions=floors)[0].text == "hello"


def test_a_floor_that_nobody_is_under_costs_nothing_and_a_higher_one_more():
    """Without noise the default lies at 1 at layer 0: floors of 0, 2, 4 lift by 0, 1, 3 up to
    the last layer, and half the square of that is 0, 0.5, 4.5."""
    engine = FakeEngine(noise=0)
    settings = [[Floor(0, engine.axis.direction[0], value)] for value in (0.0, 2.0, 4.0)]
    found = engine.divergence([asked("hi").with_reply("a b")], settings)
    assert [d.kl for d in found] == pytest.approx([0, 0.5, 4.5])


def test_every_prompt_is_planned_once_shortest_first():
    engine = FakeEngine()
    prompts = [Prompt(str(n), asked("word " * (9 - n))) for n in range(9)]
    indices = [index for batch in engine.plan(prompts, SAMPLING) for index in batch.indices]
    assert indices == list(range(8, -1, -1))


def test_there_is_no_order_to_rely_on():
    found = FakeEngine().read([asked("x").with_reply("y")] * 3, recording=Recording())
    assert [reading.index for reading in found] == [2, 1, 0]


def test_reading_leaves_out_turns_without_words_and_the_others_keep_their_numbers():
    talk = asked("x").with_reply("").with_user("y").with_reply("z")
    (reading,) = FakeEngine().read([talk], recording=Recording())
    assert [turn.turn for turn in reading.turns] == [1]


def test_the_fake_says_that_it_is_one():
    assert FakeEngine(seed=3).identity.model_id == "fake-3"
