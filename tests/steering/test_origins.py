"""What a cache holds from outside a context is unsteered, and refused; so is leaving too early."""

import copy
import threading

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from keel.errors import NotAppliedError
from keel.geometry import unit
from keel.steering import recorded, steered
from keel.testing import shrunken_model, tiny_model
from keel.types import Floor
from tests.releases import CACHE, STATES

V = unit(torch.randn(32, generator=torch.Generator().manual_seed(0)))
FLOORS = [Floor(1, V, 3.0)]
IDS = torch.randint(10, 90, (1, 9), generator=torch.Generator().manual_seed(1))
LENGTH = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


@pytest.fixture
def model():
    return tiny_model("llama")


def prefilled(model):
    with torch.no_grad():
        return model(IDS[:, :5], use_cache=True)[CACHE]


def test_a_cache_from_outside_is_refused(model):
    cache = prefilled(model)
    message = "cache of 5 tokens, of which 0 were made under these"
    with steered(model, FLOORS), pytest.raises(NotAppliedError, match=message):
        model.generate(IDS, **{CACHE: cache}, **LENGTH)
    with steered(model, [Floor(1, V, 3.0, tokens="generated")]):
        model.generate(IDS, **{CACHE: cache}, **LENGTH)


@pytest.mark.parametrize("keep", [lambda cache: cache, copy.deepcopy])
def test_a_cache_goes_on_under_the_same_floors_and_no_others(model, keep):
    with steered(model, FLOORS):
        cache = keep(prefilled(model))
        whole = model.generate(IDS, **LENGTH)
    with steered(model, [Floor(1, V, 3.0)]):
        assert torch.equal(model.generate(IDS, **{CACHE: keep(cache)}, **LENGTH), whole)
    with steered(model, [Floor(1, V, 4.0)]), pytest.raises(NotAppliedError, match="of which 0"):
        model.generate(IDS, **{CACHE: cache}, **LENGTH)


def test_a_cache_that_went_on_outside_is_refused(model):
    with steered(model, FLOORS):
        cache = prefilled(model)
    model(IDS[:, 5:6], **{CACHE: cache})
    message = "cache of 6 tokens, of which 5"
    with steered(model, FLOORS), pytest.raises(NotAppliedError, match=message):
        model(IDS[:, 6:7], **{CACHE: cache})


@pytest.mark.parametrize("model_type", ["xlstm", "mamba", "rwkv"])
def test_states_made_inside_go_on_and_those_from_outside_are_refused(model_type):
    model = shrunken_model(model_type)
    direction = unit(torch.randn(64, generator=torch.Generator().manual_seed(0)))
    floors = [Floor(1, direction, 3.0)]
    name = "state" if model_type == "rwkv" else STATES
    with torch.no_grad():
        outside = model(IDS[:, :5], use_cache=True)[name]
        with steered(model, floors):
            model.generate(IDS, **LENGTH)
            inside = model(IDS[:, :5], use_cache=True)[name]
            model(IDS[:, 5:6], **{name: inside})
        with steered(model, floors), pytest.raises(NotAppliedError, match="0 were made under"):
            model(IDS[:, 5:6], **{name: outside})


def test_an_empty_state_from_outside_is_taken():
    from transformers.models.xlstm.modeling_xlstm import xLSTMCache

    model = shrunken_model("xlstm")
    empty = xLSTMCache(model.config, 1, dtype=torch.float32)
    with torch.no_grad(), steered(model, [Floor(1, unit(torch.ones(64)), 3.0)]) as steering:
        model(IDS, **{STATES: empty})
    assert steering.firing().slots == {1: 9}


def test_prefixes_that_continuous_batching_shares_from_outside_are_refused():
    """Of the second request the first 32 tokens come from the first, made unsteered."""
    model = shrunken_model("llama")
    prompt = torch.randint(10, 90, (48,), generator=torch.Generator().manual_seed(2)).tolist()
    batching = ContinuousBatchingConfig(block_size=16, num_blocks=32, max_batch_tokens=64)
    settings = GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=-1)
    manager = model.init_continuous_batching(settings, continuous_batching_config=batching)
    manager.start()
    try:
        manager.add_request(prompt, request_id="outside")
        assert manager.get_result(timeout=60).error is None
        with steered(model, [Floor(1, unit(torch.ones(64)), 3.0)]):
            manager.add_request(prompt, request_id="inside")
            assert "begun outside" in manager.get_result(timeout=60).error
    finally:
        manager.stop(block=True, timeout=30)


def test_a_context_is_not_left_while_a_thread_generates(model):
    may_end, has_begun = threading.Event(), threading.Event()

    class Waiting:
        def put(self, _value):
            has_begun.set()
            may_end.wait(30)

        def end(self):
            pass

    thread = threading.Thread(
        target=lambda: model.generate(IDS, streamer=Waiting(), **LENGTH), name="talker"
    )
    with (
        pytest.raises(NotAppliedError, match="while talker still generates"),
        steered(model, FLOORS),
    ):
        thread.start()
        has_begun.wait(30)
    may_end.set()
    thread.join()


@pytest.mark.parametrize("context", ["steered", "recorded"])
def test_a_context_is_not_left_while_a_thread_is_in_a_pass(model, context):
    may_end, has_begun = threading.Event(), threading.Event()

    def wait(_module, _args, _output):
        has_begun.set()
        may_end.wait(30)

    waiting = model.model.layers[3].register_forward_hook(wait)
    thread = threading.Thread(target=lambda: model(IDS), name="walker")
    inside = steered(model, FLOORS) if context == "steered" else recorded(model, means=True)
    with pytest.raises(NotAppliedError, match=f"while walker .* not {context}"), inside:
        thread.start()
        has_begun.wait(30)
    may_end.set()
    thread.join()
    waiting.remove()


def test_a_context_is_left_when_a_streamer_has_said_its_last_word(model):
    ended = threading.Event()

    class Slow:
        def put(self, _value):
            pass

        def end(self):
            ended.set()

    with steered(model, FLOORS) as steering:
        threading.Thread(target=lambda: model.generate(IDS, streamer=Slow(), **LENGTH)).start()
        ended.wait(30)
    assert steering.firing().slots == {1: 12}
