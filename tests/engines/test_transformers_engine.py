"""One pass generates and records; reading the same tokens gives the same numbers."""

import pytest
import torch

from keel.engines import Probe, Recording
from keel.engines.transformers import TransformersEngine
from keel.engines.transformers.divergence import kl_per_token
from keel.geometry import unit
from keel.steering import Addition, find_decoder
from keel.testing import TINY_FAMILIES, tiny_model, tiny_tokenizer
from keel.testing.tiny_tokenizer import VOCABULARY_SIZE
from keel.types import Conversation, Floor, Message, Prompt, Sampling

SAMPLING = Sampling(max_new_tokens=12, temperature=1.0, top_p=0.95)
TEXTS = ["hello", "what is the sea", "a b c d e f g h i j k l", "who are you", "no", "go on then"]
V = unit(torch.randn(32, generator=torch.Generator().manual_seed(3)))


def engine(family: str = "llama", **more) -> TransformersEngine:
    model = tiny_model(family)
    # A random model hardly ever ends an answer: let one token in twelve end it.
    model.generation_config.eos_token_id = list(range(3, VOCABULARY_SIZE, 12))
    return TransformersEngine(model, tiny_tokenizer(), **more)


def prompts(texts=TEXTS) -> list[Prompt]:
    return [Prompt(f"q{n}", Conversation((Message("user", t),))) for n, t in enumerate(texts)]


def answers(made, asked=None, **more):
    asked = prompts() if asked is None else asked
    arguments = {"seed": 1, "recording": Recording(means=True), **more}
    found = list(made.generate(asked, SAMPLING, **arguments))
    return sorted(found, key=lambda c: c.place)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_generating_and_reading_record_the_same_of_the_same_tokens(family):
    """To the last sampled token, which plain generation never runs through the model."""
    made = engine(family)
    recording = Recording(means=True, probes=(Probe(2, V), Probe(0, V), Probe(2, -V)))
    done = answers(made, recording=recording)
    assert {c.finish for c in done} == {"stop", "length"}
    given = [
        p.conversation.with_reply(c.text, c.token_ids) for p, c in zip(prompts(), done, strict=True)
    ]
    for reading in made.read(given, recording=recording):
        completion = done[reading.place]
        if not completion.token_ids:
            continue
        (turn,) = reading.turns
        assert turn.token_ids == completion.token_ids
        assert turn.activations.tokens == completion.activations.tokens == len(turn.token_ids)
        assert torch.allclose(
            turn.activations.means_LD, completion.activations.means_LD, rtol=1e-3, atol=1e-4
        )
        assert torch.allclose(
            turn.activations.norms_L, completion.activations.norms_L, rtol=1e-3, atol=1e-4
        )
        assert torch.allclose(turn.projections_TK, completion.projections_TK, atol=2e-4)
        assert torch.allclose(turn.projections_TK[:, 0], -turn.projections_TK[:, 2], atol=1e-5)


def test_reading_agrees_with_hidden_states_kept_whole():
    """Against transformers' own output: hidden_states[l + 1] is the output of block l."""
    made = engine()
    conversation = prompts()[1].conversation.with_reply("the sea is wide")
    transcript = made.template.transcript(conversation)
    turn = transcript.turns[0]
    with torch.no_grad():
        kept = made.model(torch.tensor([transcript.token_ids]), output_hidden_states=True)
    (reading,) = made.read([conversation], recording=Recording(means=True))
    for layer in range(3):  # the last entry is taken after the final norm
        expected = kept.hidden_states[layer + 1][0, turn.start : turn.stop].mean(0)
        assert torch.allclose(reading.turns[0].activations.means_LD[layer], expected, atol=1e-5)


def test_the_seed_decides_the_answers():
    made = engine()
    first, same, other = (answers(made, seed=seed) for seed in (1, 1, 2))
    assert [c.token_ids for c in first] == [c.token_ids for c in same]
    assert [c.token_ids for c in first] != [c.token_ids for c in other]
    for a, b in zip(first, same, strict=True):
        if a.token_ids:
            assert torch.equal(a.activations.means_LD, b.activations.means_LD)


def test_rows_that_leave_a_batch_do_not_change_those_that_stay(monkeypatch):
    """Finished rows are dropped; each row has its own numbers and its own cache all the same."""
    made = engine()
    dropped = answers(made)
    monkeypatch.setattr("keel.engines.transformers.generation._COMPACT_AT", -1.0)
    kept = answers(made)
    assert {c.finish for c in kept} == {"stop", "length"}
    for a, b in zip(dropped, kept, strict=True):
        assert a.token_ids == b.token_ids
        if a.token_ids:
            assert torch.allclose(a.activations.means_LD, b.activations.means_LD, atol=1e-4)


def test_completions_come_as_they_finish():
    made = engine()
    order = [len(c.token_ids) for c in made.generate(prompts(), SAMPLING, seed=1)]
    assert order == sorted(order)
    assert order[0] < order[-1]


def test_greedy_generation_agrees_with_transformers_own():
    made = engine()
    greedy = Sampling(max_new_tokens=8, temperature=0)
    for completion in made.generate(prompts(), greedy, seed=0):
        ids = torch.tensor([made.template.prompt_ids(prompts()[completion.place].conversation)])
        own = made.model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)[0]
        expected = own[ids.shape[1] :].tolist()
        assert list(completion.token_ids) == expected[: len(completion.token_ids)]


def test_no_answer_is_longer_than_asked_for_and_none_holds_an_end_token():
    made = engine()
    for completion in answers(made):
        assert len(completion.token_ids) <= SAMPLING.max_new_tokens
        assert not set(completion.token_ids) & made._end_tokens()


def test_text_streams_as_it_is_sampled():
    made = engine()
    streamed: dict[int, str] = {}

    def hear(place: int, piece: str) -> None:
        streamed[place] = streamed.get(place, "") + piece

    for completion in answers(made, on_text=hear):
        said = streamed.get(completion.place, "")
        assert completion.text.startswith(said)
        # Only a character whose bytes never became whole is held back to the end.
        assert completion.text == said or completion.text.endswith("�")


def test_a_floor_holds_in_what_generation_records():
    made = engine()
    recording = Recording(probes=(Probe(1, V),))
    done = answers(made, recording=recording, interventions=[Floor(1, V, 2.0)])
    lowest = min(float(c.projections_TK.min()) for c in done if c.token_ids)
    assert lowest == pytest.approx(2.0, abs=1e-3)


def test_finished_rows_and_padding_are_not_counted_as_capped():
    made = engine()
    done = answers(made, interventions=[Floor(1, V, 1e4)])
    prompt_tokens = sum(len(made.template.prompt_ids(p.conversation)) for p in prompts())
    # Every real token once: prompts, and each content token in its own pass.
    expected = prompt_tokens + sum(len(c.token_ids) for c in done)
    assert made.firing.slots == {1: expected}
    assert made.firing.fired == {1: expected}


def test_reading_counts_content_tokens_only():
    made = engine()
    given = [prompts()[0].conversation.with_reply("good day")]
    (reading,) = made.read(given, recording=Recording(means=True), interventions=[Floor(1, V, 1e4)])
    assert made.firing.slots == {1: len(reading.turns[0].token_ids)}


def test_reading_stops_after_the_last_layer_needed():
    made = engine()
    ran = []
    made.decoder.blocks[3].register_forward_hook(lambda *_: ran.append(3))
    given = [prompts()[0].conversation.with_reply("good day")]
    list(made.read(given, recording=Recording(probes=(Probe(1, V),))))
    assert ran == []
    list(made.read(given, recording=Recording(means=True)))
    assert ran == [3]


def test_reading_never_runs_the_head_unless_asked():
    made = engine()
    ran = []
    made.model.lm_head.register_forward_hook(lambda _m, a, _o: ran.append(a[0].shape))
    given = [prompts()[0].conversation.with_reply("good day")]
    (reading,) = made.read(given, recording=Recording(means=True))
    assert ran == []
    list(made.read(given, recording=Recording(log_likelihood=True)))
    # Then for the content tokens alone.
    assert ran == [(1, len(reading.turns[0].token_ids), 32)]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gemma3_vision"])
def test_log_likelihood_agrees_with_a_whole_forward_pass(family):
    made = engine(family)
    given = [p.conversation.with_reply(t) for p, t in zip(prompts(), reversed(TEXTS), strict=True)]
    for reading in made.read(given, recording=Recording(log_likelihood=True)):
        transcript = made.template.transcript(given[reading.place])
        ids = torch.tensor([transcript.token_ids])
        with torch.no_grad():
            scores = torch.log_softmax(made.model(input_ids=ids).logits[0].float(), -1)
        turn = transcript.turns[0]
        expected = [scores[p - 1, transcript.token_ids[p]] for p in range(turn.start, turn.stop)]
        assert torch.allclose(reading.turns[0].log_likelihood_T, torch.stack(expected), atol=1e-4)


def test_every_turn_of_a_long_conversation_is_read():
    made = engine()
    talk = prompts()[0].conversation.with_reply("good day").with_user("go on").with_reply("no")
    (reading,) = made.read([talk], recording=Recording(means=True, probes=(Probe(3, V),)))
    assert [t.turn for t in reading.turns] == [0, 1]
    (first,) = made.read(
        [prompts()[0].conversation.with_reply("good day")], recording=Recording(means=True)
    )
    # What comes later cannot change what was: causal attention.
    assert torch.allclose(
        reading.turns[0].activations.means_LD, first.turns[0].activations.means_LD, atol=1e-5
    )


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


def test_the_same_prompts_are_planned_the_same_and_each_once():
    made = engine()
    asked = prompts(TEXTS * 30)
    first, second = made.plan(asked, SAMPLING), made.plan(asked, SAMPLING)
    assert first == second
    assert sorted(place for b in first for place in b.places) == list(range(180))


def test_an_empty_list_of_prompts_gives_nothing():
    assert answers(engine(), []) == []


def test_blocks_can_be_given_where_the_search_fails():
    model = tiny_model("llama")
    made = TransformersEngine(model, tiny_tokenizer(), blocks="model.layers")
    assert made.layers == len(find_decoder(model).blocks)
