"""What is recorded of a request: exactly its tokens, at every layer, however they were computed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from keel.engines.vllm.deployment import Deployment
from keel.engines.vllm.handover import SumsFolder, unpacked_sums
from keel.engines.vllm.packing import PackedInterventions
from keel.engines.vllm.token_book import RECORD, SCORE, SPANS, SUMS
from keel.errors import ModelMismatchError, NotAppliedError, UsageError
from keel.steering import Addition
from keel.types import Floor
from tests.engines.vllm.toys import (
    HIDDEN,
    ToyModel,
    compute,
    direction,
    hold,
    request,
    scheduled,
    tokens,
)

RECORDING = Deployment(None, recordings=3, probes=2)
IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads that wait for each other on a busy machine made these tests ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def streams(model, stream):
    """The stream after each layer, by the model's own arithmetic."""
    found, residual = [], None
    with torch.no_grad():
        for layer in model.layers:
            stream, residual = layer(stream, residual)
            found.append(stream + residual)
    return torch.stack(found)


def packed(*probes):
    layers, seeds = [layer for layer, _ in probes], [seed for _, seed in probes]
    directions = torch.stack([direction(seed) for seed in seeds])
    return save({"layers": torch.tensor(layers), "directions": directions})


def collected(held, *keys):
    return unpacked_sums(held.recordings.collect(list(keys)), SumsFolder())


@pytest.mark.parametrize("sums", [1, 0], ids=["means", "projections alone"])
@pytest.mark.parametrize("ends", [[2], [0, 2]], ids=["the model's own", "one more"])
def test_a_token_that_ended_its_answer_is_not_recorded_though_a_step_ran_it(ends, sums):
    """Scheduled ahead. The prompt holds the same token, which ends nothing there."""
    deployment = Deployment(None, settings=1, recordings=3, probes=2)
    answers = []
    for runs_ahead in (False, True):
        held = hold(deployment, runs_ahead=runs_ahead)
        held.register("s", PackedInterventions.of("s", [Floor(1, direction(), 1e4)]).to_bytes())
        held.recordings.set_probes(packed((2, 1), (0, 2)))
        new = request("a", 3, ends=ends, keel="s", **{RECORD: "k", SUMS: sums})
        held.note_requests(scheduled(new))
        stream = tokens(6)
        compute(held, ("a", 0, stream[:3]), ids=[1, 2, 1])
        for n, token in ((3, 4), (4, 5), (5, 2))[: 3 if runs_ahead else 2]:
            compute(held, ("a", n, stream[n : n + 1]), ids=[token])
        firing = held.firing("s")
        answers.append((collected(held, "k"), firing))
        assert not held.shared.left_out_R.any()
    (plain, plain_firing), (ahead, firing) = answers
    assert plain["k/0/tokens"].item() == 2
    assert plain.keys() == ahead.keys()
    assert all(torch.equal(plain[name], ahead[name]) for name in plain)
    assert firing == plain_firing == dict.fromkeys(range(3), (5, 0)) | {1: (5, 5)}


@given(st.lists(st.integers(1, 7), min_size=1, max_size=7), st.integers(0, 8))
@settings(max_examples=25, deadline=None)
def test_sums_norms_and_heights_are_those_of_the_answer_in_any_split(chunks, back):
    """Six tokens of prompt, seven of answer; after `back` tokens all is computed once more."""
    held, whole = hold(RECORDING), tokens(13)
    held.recordings.set_probes(packed((2, 1), (0, 2), (2, 3)))
    held.note_requests(scheduled(request("a", 6, **{RECORD: "k"})))
    done, seen = 0, 0
    for count in [*chunks, 13]:
        compute(held, ("a", done, whole[done : done + count]))
        done, seen = done + count, seen + 1
        if seen == 2:
            done = max(0, done - back)
        if done >= 13:
            break
    found, wanted = collected(held, "k"), streams(ToyModel(), whole)[:, 6:]
    assert found["k/0/tokens"].item() == 7
    close = {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(found["k/0/sums"], wanted.sum(1), **close)
    torch.testing.assert_close(found["k/0/norms"], wanted.norm(dim=-1).sum(-1), **close)
    heights = [wanted[layer] @ direction(seed) for layer, seed in ((2, 1), (0, 2), (2, 3))]
    torch.testing.assert_close(found["k/0/projections"], torch.stack(heights, -1), **close)


def test_two_turns_of_a_given_talk_are_recorded_apart_and_the_prompt_between_them_is_not():
    held, whole = hold(RECORDING), tokens(8)
    held.recordings.set_probes(packed((1, 2)))
    held.note_requests(scheduled(request("a", IDS, **{RECORD: "k", SPANS: [1, 3, 5, 6]})))
    for start, stop in ((0, 2), (2, 8)):
        compute(held, ("a", start, whole[start:stop]))
    found, wanted = collected(held, "k"), streams(ToyModel(), whole)
    for number, (start, stop) in enumerate([(1, 3), (5, 6)]):
        torch.testing.assert_close(found[f"k/{number}/sums"], wanted[:, start:stop].sum(1))
        heights = wanted[1, start:stop] @ direction(2)
        torch.testing.assert_close(found[f"k/{number}/projections"][:, 0], heights)
        assert found[f"k/{number}/tokens"].item() == stop - start


def test_nothing_of_one_recording_is_left_for_the_next_in_its_rows():
    held = hold(Deployment(None, recordings=1))
    for key in ("k", "l"):
        held.note_requests(scheduled(request(key, 1, **{RECORD: key})))
        compute(held, (key, 0, tokens(3, seed=ord(key))))
        found = collected(held, key)[f"{key}/0/sums"]
        wanted = streams(ToyModel(), tokens(3, seed=ord(key)))[:, 1:].sum(1)
        torch.testing.assert_close(found, wanted)


def test_several_requests_of_a_batch_are_recorded_each_under_its_key():
    held = hold(RECORDING)
    held.note_requests(scheduled(*(request(n, 1, **{RECORD: f"k{n}"}) for n in "abc")))
    parts = {name: tokens(2 + n, seed=n) for n, name in enumerate("abc")}
    compute(held, *((name, 0, stream) for name, stream in parts.items()))
    found = collected(held, "ka", "kb", "kc")
    for name, stream in parts.items():
        wanted = streams(ToyModel(), stream)[:, 1:]
        torch.testing.assert_close(found[f"k{name}/0/sums"], wanted.sum(1))


def test_what_is_recorded_under_a_setting_is_the_steered_stream():
    held = hold(RECORDING)
    setting = PackedInterventions.of("x", [Addition(2, direction(1), 4.0)])
    held.register("x", setting.to_bytes())
    held.note_requests(scheduled(request("a", 1, keel="x", **{RECORD: "k"})))
    compute(held, ("a", 0, tokens(3)))
    wanted = streams(ToyModel(), tokens(3))[:, 1:].sum(1)
    wanted[2] += 2 * 4.0 * direction(1)  # two answered tokens, each moved by 4 at the last layer
    torch.testing.assert_close(collected(held, "k")["k/0/sums"], wanted, rtol=1e-5, atol=1e-5)


def test_an_answer_of_no_tokens_is_recorded_as_such():
    held = hold(RECORDING)
    held.recordings.set_probes(packed((0, 1)))
    held.note_requests(scheduled(request("a", 4, **{RECORD: "k"})))
    compute(held, ("a", 0, tokens(4)))
    found = collected(held, "k")
    assert found["k/0/tokens"].item() == 0
    assert not found["k/0/sums"].any()
    assert "k/0/projections" not in found


def test_a_pipeline_stage_gives_its_own_layers_and_zeros_for_those_before():
    held = hold(RECORDING, ToyModel(4, held=range(2, 4)))
    held.recordings.set_probes(packed((0, 1), (3, 2)))
    held.note_requests(scheduled(request("a", 1, **{RECORD: "k"})))
    compute(held, ("a", 0, tokens(3)))
    found = collected(held, "k")
    assert found["k/0/sums"].shape == (4, HIDDEN)
    assert found["k/0/sums"].any(-1).tolist() == [False, False, True, True]
    # The first probe's layer is elsewhere: that stage gives its heights, and they are added up.
    assert found["k/0/projections"].any(0).tolist() == [False, True]


def test_new_probes_take_the_place_of_the_old_ones():
    held, wanted = hold(RECORDING), streams(ToyModel(), tokens(3))[:, 1:]
    held.recordings.set_probes(packed((0, 1), (0, 2), (1, 3)))
    held.recordings.set_probes(packed((1, 4)))
    held.note_requests(scheduled(request("a", 1, **{RECORD: "k"})))
    compute(held, ("a", 0, tokens(3)))
    heights = (wanted[1] @ direction(4))[:, None]
    torch.testing.assert_close(collected(held, "k")["k/0/projections"], heights)
    held.recordings.set_probes(b"")
    assert not any(one.probes_MD.any() for one in held.layers.values())


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (packed((0, 1), (0, 2), (0, 3)), UsageError, "3 probes at layer 0.*probes=3"),
        (packed((0, 1), (3, 2)), UsageError, "a probe at layer 3, but this model's are 0 to 2"),
        (
            save({"layers": torch.tensor([0]), "directions": direction(hidden=1)[None]}),
            ModelMismatchError,
            "probes of 1 numbers",
        ),
    ],
    ids=["too many", "no such layer", "another model's"],
)
def test_probes_that_cannot_be_taken_are_refused_and_those_before_stay(wrong, error, message):
    """A layer that the model lacks gave heights of zero once; one number spread over a row."""
    held = hold(RECORDING)
    held.recordings.set_probes(packed((1, 1)))
    with pytest.raises(error, match=message):
        held.recordings.set_probes(wrong)
    assert held.recordings.probes == [(1, 0)]
    assert torch.equal(held.layers[1].probes_MD[0], direction(1))


def reading(held, name, spans, stream, **more):
    """A given talk, read in two chunks under a key of its own name."""
    asked = {RECORD: name, SPANS: spans, SCORE: 1}
    held.note_requests(scheduled(request(name, IDS, **asked, **more)))
    for start, stop in ((0, 3), (3, 8)):
        compute(held, (name, start, stream[start:stop]))


def logits(model, stream):
    return model.compute_logits(streams(model, stream)[-1])


@pytest.mark.parametrize("recordings", [0, 2])
def test_likelihood_is_that_of_each_recorded_token_after_those_before_it(recordings):
    held, whole = hold(Deployment(None, recordings=recordings)), tokens(8)
    reading(held, "k", [0, 2, 3, 6], whole)
    log_p = logits(ToyModel(), whole).log_softmax(-1)
    # Tokens 1, 3, 4 and 5, each predicted by the one before; nothing predicts token 0.
    wanted = torch.stack([log_p[n - 1, IDS[n]] for n in (1, 3, 4, 5)])
    torch.testing.assert_close(load(held.recordings.likelihood("k"))["log_likelihood"], wanted)


def test_divergence_is_kl_of_plain_from_steered_at_each_recorded_token():
    held, whole = hold(RECORDING), tokens(8)
    push = Addition(2, direction(1), 4.0)
    held.register("x", PackedInterventions.of("x", [push]).to_bytes())
    reading(held, "plain", [3, 6], whole)
    reading(held, "held", [3, 6], whole, keel="x")
    stream = streams(ToyModel(), whole)[-1][2:5]
    log_p = ToyModel().compute_logits(stream).log_softmax(-1)
    # The mask is all, so that the tokens which predict the first recorded one are moved, too.
    log_q = ToyModel().compute_logits(stream + 4.0 * direction(1)).log_softmax(-1)
    wanted = (log_p.exp() * (log_p - log_q)).sum(-1)
    found = load(held.recordings.divergence("plain", "held"))["kl"]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert float(load(held.recordings.divergence("plain", "plain"))["kl"].max()) == 0


def test_more_predictions_than_are_scored_at_once_keep_their_order(monkeypatch):
    held, whole = hold(RECORDING), tokens(8)
    reading(held, "k", [1, 8], whole)
    at_once = held.recordings.likelihood("k")
    monkeypatch.setattr("keel.engines.vllm.recordings._SCORED_AT_ONCE", 2)
    torch.testing.assert_close(
        load(held.recordings.likelihood("k"))["log_likelihood"], load(at_once)["log_likelihood"]
    )


def test_a_prediction_that_was_not_seen_is_noticed():
    """From the cache, or under a runner that gives no stream: an empty reading was taken for
    one without tokens, and no divergence for none."""
    held, whole = hold(RECORDING), tokens(8)
    asked = {RECORD: "k", SPANS: [2, 6], SCORE: 1}
    held.note_requests(scheduled(request("a", IDS, **asked)))
    compute(held, ("a", 4, whole[4:]))  # four came from the cache
    for ask in (
        lambda: held.recordings.likelihood("k"),
        lambda: held.recordings.divergence("k", "k"),
    ):
        with pytest.raises(NotAppliedError, match="1 of 4 predictions were kept under 'k'"):
            ask()


def test_a_stage_without_the_head_says_nothing_of_likelihoods():
    held = hold(RECORDING, ToyModel(4, held=range(0, 2)))
    held.note_requests(scheduled(request("a", IDS, **{RECORD: "k", SPANS: [2, 6], SCORE: 1})))
    held.begin(["a"], [0], [8])
    held.model(tokens(8))
    held.end(None)  # what it hands on is no last stream
    assert len(load(held.recordings.likelihood("k"))["log_likelihood"]) == 0
    assert len(load(held.recordings.divergence("k", "k"))["kl"]) == 0


def test_collecting_forgets():
    held = hold(RECORDING)
    held.recordings.set_probes(packed((1, 2)))
    reading(held, "k", [2, 6], tokens(8))
    held.recordings.collect(["k"])
    assert not held.recordings.scores
    assert not held.recordings.projections
    for ask in (held.recordings.likelihood, lambda key: held.recordings.collect([key])):
        with pytest.raises(UsageError, match="nothing is recorded under 'k'"):
            ask("k")
