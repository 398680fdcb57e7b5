"""An engine under interventions: they hold, are counted, are priced, and leave nothing behind."""

from dataclasses import replace

import pytest
import torch

from keel.engines import Probe, Recording
from keel.engines.transformers import TransformersEngine
from keel.engines.transformers.reading import kl_per_token
from keel.errors import NotAppliedError, UsageError
from keel.steering import Addition
from keel.testing import tiny_model
from keel.types import Floor
from tests.engines.small import SAMPLING, V, answered, answers, engine, prompts

MEANS = Recording(means=True)


def test_a_floor_holds_in_what_generation_records():
    made = engine()
    recording = Recording(probes=(Probe(1, V),))
    done = answers(made, recording=recording, interventions=[Floor(1, V, 2.0)])
    lowest = min(float(c.projections_TK.min()) for c in done if c.token_ids)
    assert lowest == pytest.approx(2.0, abs=1e-3)


@pytest.mark.parametrize("tokens", ["all", "prompt", "generated", "not_first"])
def test_reading_steers_the_same_tokens_as_generating(tokens):
    made = engine()
    floors = [Floor(layer, V, 3.0, tokens=tokens) for layer in (1, 2)]
    done = answers(made, interventions=floors)
    unsteered = {r.index: r for r in made.read(answered(done), recording=MEANS)}
    for reading in made.read(answered(done), recording=MEANS, interventions=floors):
        if not reading.turns:
            continue
        found, generated, plain = (
            record.activations.means_LD
            for record in (reading.turns[0], done[reading.index], unsteered[reading.index].turns[0])
        )
        assert torch.allclose(found, generated, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(found, plain, rtol=1e-2, atol=1e-2)


def test_the_first_token_of_every_prompt_is_spared_and_no_other():
    made = engine()
    floors = [Floor(1, V, 1e4, tokens="not_first")]
    completions = made.generate(prompts(), SAMPLING, seed=1, recording=MEANS, interventions=floors)
    list(completions)
    assert completions.firing.fired[1] == completions.firing.slots[1] - len(prompts())


def test_finished_rows_and_padding_are_not_counted_as_capped():
    made = engine()
    floors = [Floor(1, V, 1e4)]
    completions = made.generate(prompts(), SAMPLING, seed=1, recording=MEANS, interventions=floors)
    done = list(completions)
    prompt_tokens = sum(len(made.template.prompt_ids(p.conversation)) for p in prompts())
    # Every real token once: prompts, and each content token in its own pass.
    expected = prompt_tokens + sum(len(c.token_ids) for c in done)
    assert completions.firing.slots == {1: expected}
    assert completions.firing.fired == {1: expected}


def test_reading_counts_content_tokens_only():
    made = engine()
    given = [prompts()[0].conversation.with_reply("good day")]
    readings = made.read(given, recording=MEANS, interventions=[Floor(1, V, 1e4)])
    (reading,) = readings
    assert readings.firing.slots == {1: len(reading.turns[0].token_ids)}


def test_firings_of_several_batches_are_added_up():
    made = engine()
    made.budget = replace(made.budget, read_tokens=16)  # each conversation is a batch of its own
    given = answered(answers(made))
    readings = made.read(given, recording=MEANS, interventions=[Floor(1, V, 1e4)])
    expected = sum(len(turn.token_ids) for r in readings for turn in r.turns)
    assert readings.firing.slots == readings.firing.fired == {1: expected}


def test_floors_above_the_last_layer_read_change_nothing_of_what_is_read():
    made = engine()
    given = [prompts()[0].conversation.with_reply("good day")]
    probing = Recording(probes=(Probe(1, V),))
    low, high = Floor(1, V, 2.0), Floor(3, V, 1e3)
    (one,) = made.read(given, recording=probing, interventions=[low])
    readings = made.read(given, recording=probing, interventions=[low, high])
    (two,) = readings
    assert torch.equal(one.turns[0].projections_TK, two.turns[0].projections_TK)
    assert set(readings.firing.slots) == {1, 3}


def test_the_model_is_handed_out_unsteered_whatever_call_was_left_half_done():
    """Kept by name, an unfinished call keeps its hooks on the model, and what is called directly
    was held by floors that nobody had on."""
    made = engine()
    ids = torch.tensor([[5, 6, 7]])
    alone = made.local_model.model(input_ids=ids).logits
    left = made.generate(prompts(), SAMPLING, seed=1, interventions=[Floor(1, V, 1e4)])
    next(left)
    assert torch.equal(made.local_model.model(input_ids=ids).logits, alone)
    with pytest.raises(UsageError, match="broken off"):
        next(left)


def test_a_call_left_half_done_on_one_engine_does_not_reach_into_anothers_on_the_same_model():
    """Its floors held in what the other read: means were 11.3 away, without a word."""
    first = engine()
    second = TransformersEngine(first.model, first.tokenizer)
    conversations = [p.conversation.with_reply("I am the model.") for p in prompts()]

    def read() -> torch.Tensor:
        readings = list(second.read(conversations, recording=MEANS))
        return torch.stack([reading.turns[-1].activations.means_LD for reading in readings])

    plain = read()
    left = first.generate(prompts(), SAMPLING, seed=1, interventions=[Floor(1, V, 1e4)])
    next(left)
    assert torch.equal(read(), plain)
    with pytest.raises(UsageError, match="begun another call, or another on its model"):
        next(left)
    left = first.generate(prompts(), SAMPLING, seed=1, interventions=[Floor(1, V, 1e4)])
    next(left)
    TransformersEngine(first.model, first.tokenizer)  # its first passes, too, are unsteered
    with pytest.raises(UsageError, match="broken off"):
        next(left)


def test_prices_left_half_done_are_broken_off_by_the_next_call():
    """The passes of the rest were made under that call's floors."""
    made = engine()
    conversations = [p.conversation.with_reply("I am the model.") for p in prompts()]
    prices = made.divergence(conversations, [[], [Floor(1, V, 2.0)]])
    next(prices)
    left = made.generate(prompts(), SAMPLING, seed=1, interventions=[Floor(1, V, 1e4)])
    next(left)
    with pytest.raises(UsageError, match="broken off"):
        next(prices)


def test_a_floor_above_every_layer_of_the_model_is_refused_in_reading_too():
    """It was left out as one above the layer read."""
    made = engine()
    given = [prompts()[0].conversation.with_reply("good day")]
    probing = Recording(probes=(Probe(1, V),))
    with pytest.raises(UsageError, match="99"):
        list(made.read(given, recording=probing, interventions=[Floor(99, V, 1.0)]))


def test_tokens_that_pass_a_layer_unseen_are_reported_in_reading_too():
    """Reading leaves the model early, which must not be taken for a pass that broke off."""
    made = engine()

    def swap(stack, *_):
        stack.layers[1] = tiny_model("llama").model.layers[1]

    made.model.model.register_forward_pre_hook(swap)
    given = [prompts()[0].conversation.with_reply("good day")]
    probing = Recording(probes=(Probe(2, V),))
    with pytest.raises(NotAppliedError, match="layer 1 saw 0 of"):
        list(made.read(given, recording=probing, interventions=[Floor(1, V, 1.0)]))


def test_each_conversation_gets_its_own_divergence():
    """However they are batched: longest first, so that none is where it was."""
    made = engine()
    given = answered(answers(made))
    settings = [[Floor(1, V, 2.0)], [Addition(1, V, 5.0)]]
    together = {(d.index, d.setting): (d.kl, d.tokens) for d in made.divergence(given, settings)}
    assert len(together) == 2 * sum(c.messages[-1].token_ids != () for c in given)
    for place, conversation in enumerate(given):
        for alone in made.divergence([conversation], settings):
            kl, tokens = together[place, alone.setting]
            assert (kl, tokens) == (pytest.approx(alone.kl, rel=1e-3), alone.tokens)


def test_a_floor_on_generated_tokens_cannot_change_how_an_answer_begins():
    made = engine()
    settings = [[Floor(1, V, 9.0, tokens=tokens)] for tokens in ("all", "prompt", "generated")]

    def divergences(*reply):
        given = [prompts()[0].conversation.with_reply("x", reply)]
        return [d.kl for d in made.divergence(given, settings)]

    # The first token is told by the prompt alone.
    everywhere, prompt, generated = divergences(90)
    assert generated == 0
    assert everywhere == pytest.approx(prompt, abs=1e-6)
    assert prompt > 0.01
    # The second by the first as well.
    everywhere, prompt, generated = divergences(90, 91)
    assert generated > 0.01
    assert everywhere != pytest.approx(prompt, abs=1e-3)


def test_divergence_from_itself_is_nothing_and_from_another_something():
    made = engine()
    given = [p.conversation.with_reply("good day to you") for p in prompts()]
    settings = [[Floor(1, V, -1e6)], [Addition(1, V, 5.0)]]
    found = list(made.divergence(given, settings))
    assert len(found) == 2 * len(given)
    assert all(d.kl == 0 for d in found if d.setting == 0)
    assert all(d.kl > 0.01 for d in found if d.setting == 1)


def test_divergence_is_the_sum_worked_out_by_hand():
    # p = (1/2, 1/2), q = (1/4, 3/4): ½ ln 2 + ½ ln ⅔ = 0.1438 nats.
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert float(kl_per_token(p, q)) == pytest.approx(0.1438, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_divergence_is_computed_in_float32_however_many_tokens(dtype):
    """More than fit in one part, against float64; in bfloat16 it would be out by a hundredth."""
    plain, steered = (4 * torch.randn(2, 100, 50)).to(dtype)
    p, q = (torch.log_softmax(x.double(), -1) for x in (plain, steered))
    expected = (p.exp() * (p - q)).sum(-1).float()
    assert torch.allclose(kl_per_token(plain, steered), expected, rtol=1e-4, atol=1e-5)


def test_the_model_is_left_without_hooks():
    made = engine()
    answers(made, interventions=[Floor(1, V, 1.0)])
    given = [prompts()[0].conversation.with_reply("good day")]
    list(made.read(given, recording=Recording(probes=(Probe(1, V),))))
    list(made.divergence(given, [[Floor(1, V, 1.0)]]))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.model.modules())


def test_a_consumer_that_walks_away_leaves_no_hooks():
    made = engine()
    stream = made.generate(prompts(), SAMPLING, seed=1, interventions=[Floor(1, V, 1.0)])
    next(stream)
    stream.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.model.modules())
